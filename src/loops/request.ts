/** Builds the request of a post, and the view of its session, for whichever line it goes to; and says whether a session waits for an answer. */
import type { Request, SessionView } from "../claude/line.ts";
import type { Change } from "../core/changes.ts";
import { BridgeError } from "../core/errors.ts";
import { promptBase64Max, readBytes } from "../core/filetype.ts";
import { encodeMetadata } from "../core/metadata.ts";
import { ownProgram, textOf } from "../core/model.ts";
import type { Account, Envelope, Millis, PromptFile, Session } from "../core/model.ts";
import { describe, longTextBytesMax, planFiles, promptText } from "../core/prompt.ts";
import { timeLine } from "../core/when.ts";
import { isFromOwner } from "../store/allowed.ts";
import { namesIn } from "../store/names.ts";
import type { PostRow } from "../store/posts.ts";
import type { Store } from "../store/store.ts";
import type { Bridge } from "./bridge.ts";

/**
 * Resolves to the request of a post, as it is stored or built now. `isNew`: it is to be stored before it goes out, so that a look-up
 * finds it by its text, or no file is fetched twice; text alone, which no look-up needs, is as cheap to build again.
 */
export async function build(
  bridge: Bridge,
  post: PostRow,
  signal: AbortSignal,
): Promise<{ readonly request: Request; readonly isNew: boolean }> {
  if (post.kind === "prompt") refuseGuest(bridge, post);
  // An older version stored a prompt without its files: it is built anew.
  if (post.request !== null && (post.request.kind !== "prompt" || Array.isArray(post.request.files)))
    return { request: post.request, isNew: false };
  const { store } = bridge;
  const row = store.inbox.get(Number(post.subject));
  const account = bridge.account();
  // Cannot happen: queues open when the first connect has told the account, and a prompt has a row.
  if (row === null || account === null) throw new Error("A prompt has no row, or it is not known who is asked");
  const session = store.sessions.get(post.sessionId);
  const line = session && bridge.lineOf(session);
  const hasSandbox = session !== null && line !== null && line.hasSandbox(await viewOf(bridge, session));
  const built = await buildPrompt(bridge, row.envelope, account, hasSandbox, signal);
  const hasFiles = textOf(row.envelope)?.attachments.length !== 0;
  return {
    request: { ...built, id: post.id },
    isNew: hasFiles || line === null || line.remote !== null || line.remembers === true,
  };
}

/** Keeps a guest from the owner's own program, which works under the owner's login. @throws BridgeError `owner_only` */
function refuseGuest({ store, config, lineOf }: Bridge, { subject, sessionId }: PostRow): void {
  const session = store.sessions.get(sessionId);
  const envelope = store.inbox.get(Number(subject))?.envelope;
  if (session === null || envelope === undefined || lineOf(session).name !== ownProgram) return;
  if (!isFromOwner(envelope, config.allow, store.settings))
    throw new BridgeError("owner_only", "Cannot ask the claude program for another person than the owner");
}

export const isEnd = (changes: readonly Change[]): boolean => changes.some((change) => change.do === "finish");

/** The view of a session that a line gets. */
export async function viewOf({ config, store, toolsOf }: Bridge, session: Session): Promise<SessionView> {
  const { context } = session;
  const text = (key: string, other: string): string => {
    const value = context[key];
    return typeof value === "string" ? value : other;
  };
  return {
    id: session.id,
    remoteId: session.remoteId,
    title: text("title", "Signal chat"),
    model: text("model", config.model),
    effort: text("effort", config.effort),
    ...(await toolsOf(session)),
    metadata: { ...encodeMetadata(context, session.stamps), ...metadataOf(session.id) },
    history: () => store.log.newestFirst(session.id),
  };
}

/** The metadata by which a session is found at the API before its id there is known here. */
export const metadataOf = (id: string): { readonly [key: string]: string } => ({
  "sb.schema": "1",
  "sb.id": id.slice(0, 8),
});

/** The wait of the prompt that a decision queued anew; null where it queued none. */
export const waitOf = (changes: readonly Change[]): Millis | null =>
  changes.flatMap((change) => (change.do === "again" ? change.waitMs : []))[0] ?? null;

/**
 * Builds a prompt. A file that cannot be had is told in words, so that the question is answered all the same.
 * @throws BridgeError when the line is down, so that the prompt is tried again; `voice_unheard` where there is nothing but
 *   voice notes without a program that writes them down
 */
async function buildPrompt(
  { transport, transcribe, timeZone, store }: Pick<Bridge, "transport" | "transcribe" | "timeZone" | "store">,
  envelope: Envelope,
  account: Account,
  hasSandbox: boolean,
  signal: AbortSignal,
): Promise<Request & { readonly kind: "prompt" }> {
  const body = textOf(envelope);
  if (!body) return { kind: "prompt", text: "", files: [] };
  const plan = planFiles(body, hasSandbox);
  const files: PromptFile[] = [];
  const said = [...plan.refused];
  let room = promptBase64Max;
  const long = body.attachments.find((file) => file.isLongText);
  let longText: string | null = null;
  const bytesOf = async (ref: string, bytesMax: number): Promise<Uint8Array | null> => {
    try {
      return await transport.attachment(ref, bytesMax, signal);
    } catch (error) {
      if (error instanceof BridgeError && error.retry === "never") return null;
      throw error;
    }
  };
  if (long) {
    const bytes = await bytesOf(long.ref, longTextBytesMax);
    if (bytes) longText = new TextDecoder().decode(bytes);
    else said.push("[Only the beginning of this long message could be fetched.]");
  }
  for (const { file, bytesMax } of plan.voice) {
    const bytes = transcribe && (await bytesOf(file.ref, bytesMax));
    const spoken = bytes && (await transcribe(bytes, file.contentType, signal));
    said.push(spoken ? `[Voice note:] ${spoken}` : "[A voice note came with this; it could not be written down.]");
    if (!spoken && body.text.trim() === "" && body.attachments.length === plan.voice.length)
      throw new BridgeError("voice_unheard", "Cannot ask as a voice note could not be written down");
  }
  for (const { file, bytesMax } of plan.fetch) {
    const bytes = await bytesOf(file.ref, bytesMax);
    const read = bytes ? await readBytes(bytes, file, hasSandbox) : { refused: "could not be fetched" };
    if ("refused" in read) said.push(`[The attached ${describe(file)} ${read.refused}.]`);
    else if (read.file.base64.length > room)
      said.push(`[The attached ${describe(file)} was too much at once, and left out.]`);
    else {
      files.push(read.file);
      room -= read.file.base64.length;
    }
  }
  const written = timeZone === undefined ? "" : timeLine(envelope.sentAt, timeZone);
  const prompt = promptText(envelope, account, longText, namesIn(store.settings));
  const text = [written, prompt, ...said].filter((line) => line !== "").join("\n");
  return { kind: "prompt", text, files };
}

/**
 * True where Claude waits for an answer that can still come, from a person, a call or a post: it takes no prompt before. Where it took
 * neither the answers nor the stop, the prompt goes out, and `promptBounds.busy` has the end.
 */
export function isAsking({ log, posts, calls }: Store, sessionId: string): boolean {
  const { uses, isWaiting } = log.open(sessionId);
  if (!isWaiting) return false;
  const called = calls.open(sessionId).map(({ id }) => id);
  return uses.some(({ id, isAsk }) => isAsk || called.includes(id) || posts.isConfirmed(id));
}
