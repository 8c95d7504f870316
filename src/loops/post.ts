/** What a post needs before it goes out, whichever line it goes to. */
import type { Request, SessionView } from "../claude/line.ts";
import { encodeMetadata } from "../core/metadata.ts";
import type { Change } from "../core/changes.ts";
import type { Millis, Session } from "../core/model.ts";
import type { PostRow } from "../store/posts.ts";
import type { Bridge } from "./bridge.ts";
import { buildRequest } from "./request.ts";

/**
 * The request of a post: as it is stored, or built now. `isNew`: it is to be stored before it goes out, so that what goes out again is
 * what went out before, and no file is fetched twice.
 */
export async function build(
  bridge: Bridge,
  post: PostRow,
  signal: AbortSignal,
): Promise<{ readonly request: Request; readonly isNew: boolean }> {
  // What an older version asked was kept without its files.
  if (post.request !== null && (post.request.kind !== "prompt" || Array.isArray(post.request.files)))
    return { request: post.request, isNew: false };
  const { store } = bridge;
  const row = store.inbox.get(Number(post.subject));
  const account = bridge.account();
  // Queues open when the first line has told who we are, and a prompt has a row.
  if (row === null || account === null) throw new Error("A prompt has no row, or it is not known who is asked");
  const session = store.sessions.get(post.sessionId);
  const hasSandbox = session !== null && bridge.lineOf(session).hasSandbox(await viewOf(bridge, session));
  return { request: await buildRequest(bridge, row.envelope, account, hasSandbox, signal), isNew: true };
}

/** Claude has answered: it can be reached, and took so long. */
export function noteEnd({ notices, clock }: Bridge, session: string, startedAt: Millis): void {
  notices.emit("claude", { fault: null, at: clock.now() });
  notices.emit("ended", { session, durationMs: clock.monotonic() - startedAt });
}

export const isEnd = (changes: readonly Change[]): boolean => changes.some((change) => change.do === "finish");

/** What works on one session now. */
export type Worker = {
  /** Something was posted, or taken back. */
  wake: () => void;
  /** Those who wait until the log was listed from now on. */
  readonly waiting: PromiseWithResolvers<void>[];
};

/** A session as a line is told of it. */
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

/** What a session is known by at the API, before its id there is known here. */
export const metadataOf = (id: string): { readonly [key: string]: string } => ({
  "sb.schema": "1",
  "sb.id": id.slice(0, 8),
});

/** How long the prompt waits that a decision queued anew; null where it did not. */
export const waitOf = (changes: readonly Change[]): Millis | null =>
  changes.flatMap((change) => (change.do === "again" ? change.waitMs : []))[0] ?? null;
