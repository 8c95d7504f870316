/**
 * `POST /control/…`: acts for the commands that run beside the daemon, with the token of the home folder.
 * `GET /control/proof?nonce=…` proves to them beforehand that the daemon listens: only the token's owner can answer.
 * `POST /send`: a message by a script, with the token of `signalman token`, which may do nothing else.
 */
import { Hono, type Context } from "hono";
import { createHmac, timingSafeEqual } from "node:crypto";
import * as v from "valibot";
import { BridgeError, errorRow, toFault } from "../core/errors.ts";
import type { AllowRule } from "../core/inbound.ts";
import type { Chat } from "../core/model.ts";
import { addressee } from "../settings.ts";

/** A file for `send`: `staged` is its name in the home's folder `outgoing`, from which it is taken. */
export type StagedFile = { readonly staged: string; readonly fileName: string; readonly contentType: string };
/** The state of a message; `fault` is the code of the fault that made it fail. */
export type SendState = { readonly state: "waiting" | "sent" | "failed"; readonly fault: string | null };

export type Gate = {
  readonly control: Control;
  /** The token for `/control/…`, which any program that can read the home folder knows. */
  readonly token: string;
  /** The token for `/send`; null where `signalman token` has never made one. */
  readonly scriptToken: () => string | null;
  /** The URL at which the server listens, as the control file has it. */
  readonly url: () => string;
};

/** Longest text of `send` in UTF-16 code units. */
const textLengthMax = 64 * 1024;
const filesMax = 10;

const short = v.pipe(v.string(), v.nonEmpty(), v.maxLength(255));
const captcha = v.pipe(v.string(), v.nonEmpty(), v.maxLength(16_384));
const file = v.object({ staged: v.pipe(v.string(), v.uuid()), fileName: short, contentType: short });
const message = v.pipe(
  v.object({
    to: v.pipe(addressee, v.transform(toChat)),
    text: v.pipe(v.string(), v.maxLength(textLengthMax)),
    files: v.optional(v.pipe(v.array(file), v.maxLength(filesMax)), []),
  }),
  v.check(({ text, files }) => text.trim() !== "" || files.length > 0, "empty"),
);
const byId = v.object({ id: short });

/** The acts of `POST /control/<name>`, each with the input that it takes. */
const acts = {
  /** Skips the wait; also tries a halted line once. A captcha is handed in first. */
  reconnect: v.object({ captcha: v.optional(captcha) }),
  /** Resolves when all sessions were read and written. */
  sync: v.object({}),
  /** Resolves to an id of the message, which is in the outbox then. `text` is Markdown. */
  send: message,
  /** Resolves to the `SendState` of that id. */
  sent: byId,
  /** Reads the projects of the settings anew. */
  projects: v.object({}),
  /** Stops the daemon, and starts it anew once process `pid`, which needs the home meanwhile, has ended. */
  leave: v.object({ pid: v.pipe(v.number(), v.integer(), v.minValue(1)) }),
  /** Deletes a session in which nothing is under way; `id` is ours or the remote one. Resolves when Claude was asked to, as well. */
  forget: byId,
  /** Ends a session, named by the same ids. Resolves when it has ended on both sides. */
  archive: byId,
};
type Acts = typeof acts;
/** The daemon's side of the acts: each may throw BridgeError. */
export type Control = { readonly [Name in keyof Acts]: (input: v.InferOutput<Acts[Name]>) => unknown };

const refusal = (message: string) => ({ code: "config", message, hint: "" });

/** The routes of `/control`. */
export function createControl({ control, token, url }: Gate): Hono {
  const app = new Hono();
  app.get("/proof", (c) => c.text(proofOf(token, c.req.query("nonce") ?? "", url())));
  app.use(async (c, next) => {
    if (isBearer(c, token)) return next();
    return c.json(refusal("Cannot do that without the token of the home folder"), 401);
  });
  for (const [name, schema] of Object.entries(acts))
    app.post(name, async (c) => {
      const input = v.safeParse(schema, await c.req.json().catch(() => ({})));
      if (!input.success)
        return c.json(refusal(`Cannot read the request: ${v.getDotPath(input.issues[0]) ?? "body"}`), 400);
      return c.json({ result: (await control[name as keyof Acts](input.output as never)) ?? null });
    });
  app.onError(sayFault);
  return app;
}

/** `POST /send?to=…` with the text as its body, or JSON `{ text, to }` announced as such; without `to` it goes to Note to Self. */
export function createSend({ control, scriptToken }: Gate): Hono {
  const app = new Hono();
  app.post("/", async (c) => {
    const token = scriptToken();
    if (token === null || !isBearer(c, token)) return c.text("This takes the token of `signalman token`.\n", 401);
    const isJson = c.req.header("content-type")?.startsWith("application/json") ?? false;
    const said = isJson ? await c.req.json<object>().catch(() => ({})) : { text: await c.req.text() };
    const input = v.safeParse(message, { to: c.req.query("to") ?? "self", ...said, files: [] });
    if (!input.success) return c.text(`${refusals[v.getDotPath(input.issues[0]) ?? ""] ?? refusals[""]}\n`, 400);
    await control.send(input.output);
    return c.text("In the outbox.\n", 202);
  });
  app.onError(sayFault);
  return app;
}

function sayFault(error: Error, c: Context): Response {
  const { code, message, hint } = toFault(error);
  const isOurs = error instanceof BridgeError && errorRow(code).retry !== "backoff";
  return c.json({ code, message, hint }, isOurs ? 409 : 503);
}

const refusals: Readonly<Record<string, string>> = {
  to: "It goes to self, to a number with its country code (as a URL writes its plus: %2B), an account id or group:<id>.",
  text: `A message has a text, of at most ${textLengthMax} characters.`,
  "": "This is no message: it is empty.",
};

function toChat(to: AllowRule): Chat {
  if (to.kind === "self" || to.kind === "group") return to;
  return { kind: "direct", peer: { aci: null, number: null, [to.kind]: to.kind === "aci" ? to.aci : to.number } };
}

const isBearer = (c: Context, token: string): boolean => isSame(c.req.header("authorization") ?? "", `Bearer ${token}`);

/** The answer that only a daemon with this token gives, at this address: a program that passes on a proof from elsewhere is found out. */
export const proofOf = (token: string, nonce: string, url: string): string =>
  createHmac("sha256", token).update(`${nonce}\n${url}`).digest("base64url");

/** Compares in a time that does not tell how much of `given` was right. */
export function isSame(given: string, wanted: string): boolean {
  const digest = (text: string): Uint8Array => createHmac("sha256", "").update(text).digest();
  return timingSafeEqual(digest(given), digest(wanted));
}
