// A small client of bandit-router on top of what the proto generates: deadlines, retries, keys and a fallback arm.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";

import { credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";

import {
  type RewardRequest,
  RewardResponse,
  RouteRequest,
  type RoutedArm,
  type RouteResponse,
  RouterServiceClient,
} from "../gen/router/v1/routing.js";
import { Signal } from "../gen/router/v1/types.js";

const ROUTE_MS = 1_000;
const REWARD_MS = 5_000;

// gRPC repeats a call that no router answered. That is safe: each call carries an id that makes a repetition the same call.
const SERVICE_CONFIG = {
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    retried("Route", 4, "0.02s", "0.2s", ["UNAVAILABLE", "CANCELLED"]),
    retried("Reward", 5, "0.1s", "1s", ["UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED"]),
  ],
};

// Nobody could decide. Every other error is the caller's, and thrown.
const NO_ANSWER = new Set([
  status.UNAVAILABLE,
  status.CANCELLED,
  status.DEADLINE_EXCEEDED,
  status.RESOURCE_EXHAUSTED,
  status.INTERNAL,
  status.UNKNOWN,
]);

export interface Decision {
  /** The receipt to reward; empty where the fallback arm answered. */
  decisionId: string;
  arm: RoutedArm;
  propensity: number;
  policyVersion: bigint;
}

export interface Options {
  /** The arm that answers where no router can be reached. */
  fallback?: RoutedArm;
  /** An API key, where the router asks for one. */
  apiKey?: string;
  /** A file with the certificate of the router or of its authority. Without it the connection is in plain text. */
  caFile?: string;
}

export class Router {
  private readonly client: RouterServiceClient;
  private readonly metadata = new Metadata();

  constructor(
    target: string,
    private readonly options: Options = {},
  ) {
    const secure = options.caFile ? credentials.createSsl(readFileSync(options.caFile)) : credentials.createInsecure();
    if (options.apiKey) this.metadata.set("authorization", `Bearer ${options.apiKey}`);
    this.client = new RouterServiceClient(target, secure, {
      "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
      "grpc.max_reconnect_backoff_ms": 5_000,
    });
  }

  /** Asks which arm answers a request. */
  async route(experimentId: string, request: Partial<RouteRequest> = {}): Promise<Decision> {
    const message = RouteRequest.fromPartial({ requestId: randomUUID(), ...request, experimentId });
    try {
      const reply = await call<RouteResponse>((done) =>
        this.client.route(message, this.metadata, { deadline: Date.now() + ROUTE_MS }, done),
      );
      if (!reply.arm) throw new Error("a decision without an arm");
      return { decisionId: reply.decisionId, arm: reply.arm, propensity: reply.propensity, policyVersion: reply.policyVersion };
    } catch (error) {
      const { fallback } = this.options;
      if (!fallback || !NO_ANSWER.has((error as ServiceError).code)) throw error;
      return { decisionId: "", arm: fallback, propensity: 1, policyVersion: 0n };
    }
  }

  /** Tells what the user did. The same event id, once more, changes nothing. Undefined: there was nothing to tell it about. */
  async reward(
    decision: Decision | string,
    eventId: string,
    what: Signal | { reward: number },
  ): Promise<RewardResponse | undefined> {
    const decisionId = typeof decision === "string" ? decision : decision.decisionId;
    if (!decisionId) return undefined;
    const feedback: RewardRequest["feedback"] =
      typeof what === "object" ? { $case: "reward", value: what.reward } : { $case: "signal", value: what };
    const message: RewardRequest = { decisionId, eventId, feedback, metadata: {} };
    return call<RewardResponse>((done) =>
      this.client.reward(message, this.metadata, { deadline: Date.now() + REWARD_MS }, done),
    );
  }

  close(): void {
    this.client.close();
  }
}

function retried(method: string, maxAttempts: number, initialBackoff: string, maxBackoff: string, codes: string[]) {
  return {
    name: [{ service: "router.v1.RouterService", method }],
    retryPolicy: { maxAttempts, initialBackoff, maxBackoff, backoffMultiplier: 2, retryableStatusCodes: codes },
  };
}

function call<T>(send: (done: (error: ServiceError | null, reply: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => send((error, reply) => (error ? reject(error) : resolve(reply))));
}
