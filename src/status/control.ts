/**
 * `POST /control/…`: what the commands beside the running daemon ask of it. Only with the token of the home folder.
 * `GET /control/proof?nonce=…` shows them beforehand that it is the daemon that listens: only the token's owner can answer.
 */
import { Hono } from "hono";
import { createHmac, timingSafeEqual } from "node:crypto";
import * as v from "valibot";
import { BridgeError, errorRow, toFault } from "../core/errors.ts";
import type { AllowRule } from "../core/inbound.ts";
import type { Chat } from "../core/model.ts";
import { addressee } from "../settings.ts";

/** What the daemon does when asked. Each may throw BridgeError. */
export type Control = {
  /** Skips the wait; also tries a halted line once. A captcha is handed in first. */
  readonly reconnect: (captcha: string | undefined) => Promise<void>;
  /** Resolves when the message is in the outbox. */
  readonly send: (chat: Chat, text: string) => void;
  /** Resolves when all sessions were read and written. */
  readonly sync: () => Promise<void>;
  /** `id` is ours or the remote one. Resolves when the session has ended on both sides. */
  readonly archive: (id: string) => Promise<void>;
};

export type Gate = {
  readonly control: Control;
  /** What `/control/…` asks for; who can read the home folder knows it. */
  readonly token: string;
  /** Where the server listens, as the control file says it. */
  readonly url: () => string;
};

/** Longest text of `send` in UTF-16 code units. */
const textLengthMax = 64 * 1024;

const reconnect = v.object({ captcha: v.optional(v.pipe(v.string(), v.nonEmpty(), v.maxLength(16_384))) });
const message = v.object({ to: addressee, text: v.pipe(v.string(), v.nonEmpty(), v.maxLength(textLengthMax)) });
const session = v.object({ id: v.pipe(v.string(), v.nonEmpty()) });

const refusal = (message: string) => ({ code: "config", message, hint: "" });

export function createControl({ control, token, url }: Gate): Hono {
  const app = new Hono();
  app.get("/proof", (c) => c.text(proofOf(token, c.req.query("nonce") ?? "", url())));
  app.use(async (c, next) => {
    if (isSame(c.req.header("authorization") ?? "", `Bearer ${token}`)) return next();
    return c.json(refusal("Cannot obey without the token of the home folder"), 401);
  });
  const on = <T>(path: string, schema: v.GenericSchema<unknown, T>, act: (input: T) => unknown): void => {
    app.post(path, async (c) => {
      const body: unknown = await c.req.json().catch(() => ({}));
      const input = v.safeParse(schema, body);
      if (!input.success)
        return c.json(refusal(`Cannot read the request: ${v.getDotPath(input.issues[0]) ?? "body"}`), 400);
      await act(input.output);
      return c.json({});
    });
  };
  on("/reconnect", reconnect, ({ captcha }) => control.reconnect(captcha));
  on("/sync", v.object({}), () => control.sync());
  on("/send", message, ({ to, text }) => control.send(toChat(to), text));
  on("/archive", session, ({ id }) => control.archive(id));
  app.onError((error, c) => {
    const { code, message, hint } = toFault(error);
    const isOurs = error instanceof BridgeError && errorRow(code).retry !== "backoff";
    return c.json({ code, message, hint }, isOurs ? 409 : 503);
  });
  return app;
}

function toChat(to: AllowRule): Chat {
  if (to.kind === "self" || to.kind === "group") return to;
  return { kind: "direct", peer: { aci: null, number: null, [to.kind]: to.kind === "aci" ? to.aci : to.number } };
}

/** What only a daemon with this token says, and only at this address: a stranger who passes it on from elsewhere is found out. */
export const proofOf = (token: string, nonce: string, url: string): string =>
  createHmac("sha256", token).update(`${nonce}\n${url}`).digest("base64url");

/** In a time that tells nothing about how much of it was right. */
export function isSame(given: string, wanted: string): boolean {
  const digest = (text: string): Uint8Array => createHmac("sha256", "").update(text).digest();
  return timingSafeEqual(digest(given), digest(wanted));
}
