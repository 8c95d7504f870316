/**
 * The status server as a function from request to response; `listen.ts` puts it on a port.
 *
 *   GET /health · /ready · /status (JSON, or a page for a browser) · /metrics        POST /control/…, /send (control.ts, with a token)
 *
 * No answer shows what people write. The server answers only to names of this machine, so that no web page can read it by pointing a
 * name of its own at 127.0.0.1 (DNS rebinding).
 */
import { Hono } from "hono";
import { accepts } from "hono/accepts";
import { bodyLimit } from "hono/body-limit";
import { secureHeaders } from "hono/secure-headers";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { isLoopback } from "../loopback.ts";
import { createControl, createSend, type Gate } from "./control.ts";
import { contentSecurityPolicy, renderPage } from "./page.ts";
import type { Status } from "./status.ts";

export type AppDeps = Gate & {
  readonly status: () => Status;
  /** Null while the process does its work and Signal has shown within `staleAfter` that it delivers, else what is wrong. */
  readonly health: () => string | null;
  readonly isReady: () => boolean;
  /** Any host name is answered, since the owner trusts the network (`trust_listen`). */
  readonly isAnyHost: boolean;
  /** Wall time, Unix ms. */
  readonly now: () => Millis;
  /** Takes an error of a request, for the log. */
  readonly report: (error: unknown) => void;
};

/** Bounds the body of a request; none here needs as much. */
const bodyBytesMax = 1024 * 1024;

/** The app; `app.fetch` serves, `app.request("/status")` is for tests. */
export function createApp(deps: AppDeps): Hono {
  const app = new Hono();
  app.use(
    secureHeaders({ strictTransportSecurity: false }),
    bodyLimit({ maxSize: bodyBytesMax, onError: (c) => c.text("This is too large.\n", 413) }),
  );
  app.use(async (c, next) => {
    c.header("cache-control", "no-store");
    if (!deps.isAnyHost && !isOwnName(new URL(c.req.url).hostname, c.req.header("host")))
      return c.text("This name is not one of this machine's. Use 127.0.0.1 or localhost.\n", 421);
    return next();
  });
  app.get("/", (c) => c.redirect("/status"));
  app.get("/health", (c) => {
    const fault = deps.health();
    return fault === null ? c.text("ok\n") : c.text(`${fault}\n`, 503);
  });
  app.get("/ready", (c) => {
    const { state } = deps.status().connection;
    return c.text(`${state}\n`, deps.isReady() ? 200 : 503);
  });
  app.get("/status.json", (c) => c.body(`${JSON.stringify(deps.status(), null, 2)}\n`, 200, json));
  app.get("/status", (c) => {
    c.header("vary", "accept");
    const status = deps.status();
    const form = accepts(c, { header: "Accept", supports: ["text/html", "application/json"], default: "" });
    if (form !== "text/html") return c.body(`${JSON.stringify(status, null, 2)}\n`, 200, json);
    c.header("content-security-policy", contentSecurityPolicy);
    return c.html(renderPage(status, deps.now()));
  });
  app.get("/metrics", async (c) => {
    const { renderMetrics } = await import("./metrics.ts");
    const { body, contentType } = await renderMetrics(deps.status());
    return c.body(body, 200, { "content-type": contentType });
  });
  app.route("/control", createControl(deps));
  app.route("/send", createSend(deps));
  app.onError((error, c) => {
    deps.report(error);
    if (error instanceof BridgeError) return c.json(toFault(error), 503);
    return c.text("The status cannot be read: see the log.\n", 500);
  });
  app.notFound((c) => c.text("There is /status, /health, /ready and /metrics.\n", 404));
  return app;
}

const json = { "content-type": "application/json; charset=utf-8" };

/** True where URL and header both name loopback, or an address in digits: a rebound name is neither. */
function isOwnName(hostname: string, header: string | undefined): boolean {
  const named = header === undefined ? hostname : (/^(\[[\da-f:.]+\]|[\w.-]+)(:\d+)?$/i.exec(header)?.[1] ?? "");
  return [hostname, named].every((name) => isLoopback(name) || /^(\[[\da-f:.]+\]|\d+(\.\d+){3})$/i.test(name));
}
