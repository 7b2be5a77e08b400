-- Questions to the files of one experiment, in DuckDB. In the directory that holds them as `export`:
--
--     bandit-router export all --experiment support-model --to export
--     duckdb < examples/duckdb.sql

CREATE OR REPLACE VIEW decisions AS FROM read_parquet('export/decisions/*/*.parquet', hive_partitioning = true);
CREATE OR REPLACE VIEW events AS FROM read_parquet('export/events/*/*.parquet', hive_partitioning = true);
CREATE OR REPLACE VIEW outcomes AS FROM read_parquet('export/outcomes/*/*.parquet', hive_partitioning = true);
CREATE OR REPLACE VIEW snapshots AS FROM read_parquet('export/snapshots/*/*.parquet', hive_partitioning = true);

-- What the router believed of all traffic, over time: the mean of each arm's posterior, its standard deviation, and the
-- traffic it got. Rows with a segment are of a segment that has its own.
CREATE OR REPLACE VIEW posterior_over_time AS
SELECT taken_at, policy_version, arm_id, n, mean,
       sqrt(alpha * beta / ((alpha + beta) ** 2 * (alpha + beta + 1))) AS sd, probability_best, allocation
FROM snapshots WHERE active AND segment = ''
ORDER BY taken_at, policy_version, arm_id;
FROM posterior_over_time;

-- What each arm earned, as it stands in the log. Of arms that got their traffic adaptively these means are biased.
-- An outcome that waits is left out, as the posterior does: of young decisions only the fast outcomes are known.
CREATE OR REPLACE VIEW earned AS
SELECT d.arm_id, count(*) AS decisions, count(o.reward) AS outcomes, avg(o.reward) AS mean_reward
FROM decisions d LEFT JOIN outcomes o ON o.decision_key = d.decision_key AND NOT o.waits
GROUP BY d.arm_id ORDER BY d.arm_id;
FROM earned;

-- What it would have earned to choose one arm always. Each decision that chose it counts 1 / propensity times (IPS), and
-- the self-normalised estimate (SNIPS) divides by the sum of these weights. Decisions that could not have chosen it, that
-- were forced or held out, or that have no outcome that counts, are left out. The standard error is robust by unit: it is
-- made of what the estimate would change by without each of them. `units` counts those that chose the arm, and `ess` is the
-- number of decisions that the weights are worth: below a tenth of n, or with few units, trust none of it.
CREATE OR REPLACE VIEW value_of_arms AS
WITH logged AS (
    SELECT d.arm_id, d.propensity, d.allocation_arm_ids AS arms, d.allocation, o.reward,
           coalesce(nullif(d.unit_id, ''), d.decision_key) AS unit
    FROM decisions d JOIN outcomes o USING (decision_key)
    WHERE d.reason NOT IN ('forced', 'holdout') AND NOT o.waits
),
weighted AS (
    SELECT t.arm_id, l.unit, l.reward, CASE WHEN l.arm_id = t.arm_id THEN 1 / l.propensity ELSE 0 END AS w
    FROM logged l JOIN (SELECT DISTINCT unnest(arms) AS arm_id FROM logged) t
        ON coalesce(l.allocation[list_position(l.arms, t.arm_id)], 0) > 0
),
estimated AS (
    SELECT arm_id, count(*) AS n, sum(w) AS total, sum(w * reward) / count(*) AS ips,
           sum(w * reward) / nullif(sum(w), 0) AS snips, sum(w) ** 2 / nullif(sum(w ** 2), 0) AS ess
    FROM weighted GROUP BY arm_id
),
by_unit AS (
    SELECT arm_id, unit, sum(w * (reward - snips)) / nullif(any_value(total) - sum(w), 0) AS moved
    FROM weighted JOIN estimated USING (arm_id) WHERE w > 0 GROUP BY arm_id, unit
)
SELECT arm_id, any_value(n) AS n, count(*) AS units, any_value(ess) AS ess, any_value(ips) AS ips, any_value(snips) AS snips,
       sqrt(sum(moved ** 2) * (count(*) - 1) / count(*)) AS snips_stderr
FROM by_unit JOIN estimated USING (arm_id)
GROUP BY arm_id ORDER BY arm_id;
FROM value_of_arms;

-- How long the calls of each arm took, as the callers reported it.
SELECT arm_id, count(*) AS calls, median((details ->> 'latency_ms')::DOUBLE) AS median_ms,
       sum((details ->> 'cost_usd')::DOUBLE) AS cost_usd
FROM events WHERE kind = 'call'
GROUP BY arm_id ORDER BY arm_id;
