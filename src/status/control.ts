/**
 * `POST /control/…`: what the commands beside the running daemon ask of it. Only with the token of the home folder.
 * `GET /control/proof?nonce=…` shows them beforehand that it is the daemon that listens: only the token's owner can answer.
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
/** What has become of a message; `fault` is the code of why it failed. */
export type SendState = { readonly state: "waiting" | "sent" | "failed"; readonly fault: string | null };

export type Gate = {
  readonly control: Control;
  /** What `/control/…` asks for; who can read the home folder knows it. */
  readonly token: string;
  /** What `/send` asks for; null where `signalman token` has never made one. */
  readonly scriptToken: () => string | null;
  /** Where the server listens, as the control file says it. */
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

/** What the daemon does when asked by `POST /control/<name>`, and what each takes. */
const acts = {
  /** Skips the wait; also tries a halted line once. A captcha is handed in first. */
  reconnect: v.object({ captcha: v.optional(captcha) }),
  /** Resolves when all sessions were read and written. */
  sync: v.object({}),
  /** Resolves to a name for what is in the outbox now. `text` is Markdown. */
  send: message,
  /** By that name: `SendState`. */
  sent: byId,
  /** Takes up the projects of the settings as they are now. */
  projects: v.object({}),
  /** Stops, and starts anew once that process, which needs the home meanwhile, has ended. */
  leave: v.object({ pid: v.pipe(v.number(), v.integer(), v.minValue(1)) }),
  /** Deletes a session in which nothing is under way; `id` is ours or the remote one. Resolves when Claude was asked to, as well. */
  forget: byId,
  /** The same. Resolves when the session has ended on both sides. */
  archive: byId,
};
type Acts = typeof acts;
/** Each may throw BridgeError. */
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

/** What only a daemon with this token says, and only at this address: a stranger who passes it on from elsewhere is found out. */
export const proofOf = (token: string, nonce: string, url: string): string =>
  createHmac("sha256", token).update(`${nonce}\n${url}`).digest("base64url");

/** In a time that tells nothing about how much of it was right. */
export function isSame(given: string, wanted: string): boolean {
  const digest = (text: string): Uint8Array => createHmac("sha256", "").update(text).digest();
  return timingSafeEqual(digest(given), digest(wanted));
}
