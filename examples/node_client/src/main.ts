// Routes some requests, rewards each as its arm deserves, and prints what became of it as JSON.
// Usage: node dist/src/main.js [REQUESTS]; the router is at BANDIT_ROUTER_SERVER.

import { Signal } from "../gen/router/v1/types.js";
import { statusToJSON } from "../gen/router/v1/routing.js";
import { Router } from "./router.js";

const experiment = "support-model";
const router = new Router(process.env.BANDIT_ROUTER_SERVER ?? "127.0.0.1:50051", {
  fallback: { armId: "haiku", model: "claude-haiku-4-5-20251001", config: { max_tokens: 1024 } },
  apiKey: process.env.BANDIT_ROUTER_API_KEY,
  caFile: process.env.BANDIT_ROUTER_TLS_CA,
});

const arms: Record<string, number> = {};
const models: Record<string, string> = {};
const statuses: Record<string, number> = {};
let fallbacks = 0;
let tokens = 0;

for (let turn = 0; turn < Number(process.argv[2] ?? 20); turn++) {
  const session = { sessionId: `node-${process.pid}`, turnId: `${turn}` };
  const decision = await router.route(experiment, session);
  const { armId, model, config } = decision.arm;
  arms[armId] = (arms[armId] ?? 0) + 1;
  models[armId] = model;
  // Here the model would be called, with these parameters.
  tokens = config?.max_tokens;
  if (!decision.decisionId) fallbacks++;
  const signal = armId === "sonnet" ? Signal.SIGNAL_TASK_COMPLETED : Signal.SIGNAL_IMMEDIATE_RETRY;
  for (let attempt = 0; attempt < 2; attempt++) {
    // The second time as after a restart that forgot the first: the same event id.
    const reply = await router.reward(decision, `${session.sessionId}/${turn}`, signal);
    const status = reply ? statusToJSON(reply.status) : "NOT_SENT";
    statuses[status] = (statuses[status] ?? 0) + 1;
  }
}
router.close();
console.log(JSON.stringify({ arms, models, tokens, statuses, fallbacks }));
