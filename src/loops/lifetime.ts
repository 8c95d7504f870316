/** How a session that lives elsewhere begins there, and how it ends. */
import type { Remote, RemoteSession } from "../claude/line.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Session } from "../core/model.ts";
import type { Key } from "../store/remembered.ts";
import type { Bridge } from "./bridge.ts";
import { metadataOf, viewOf } from "./request.ts";

/** The session is over at the API: nothing can be asked in it any more. */
export const isOver = (there: RemoteSession | null): boolean =>
  there === null || there.isArchived || there.status === "terminated";

/** A session whose making was answered is stored before anything is asked in it; one whose answer was lost is found again. */
export async function create(bridge: Bridge, remote: Remote, session: Session, signal: AbortSignal): Promise<string> {
  const { settings, sessions, db } = bridge.store;
  const view = await viewOf(bridge, session);
  const mark = `creating:${session.id}` as const;
  const found = settings.get(mark) === null ? null : await remote.find(view, signal);
  if (found === null) settings.set(mark, "1");
  const remoteId = found ?? (await remote.create(view, signal));
  db.transaction(() => {
    sessions.setRemote(session.id, remoteId);
    // It was forgotten while it was made.
    if (sessions.get(session.id) === null) settings.set(`forget:${remoteId}`, "1");
    settings.remove(mark);
  });
  return remoteId;
}

/** What ended by itself was not closed elsewhere. */
export function settleGone({ store, chats }: Bridge, sessionId: string, there: RemoteSession | null): void {
  const session = store.sessions.get(sessionId);
  if (session) chats.settle(session.chat, { type: "gone", session, isElsewhere: there?.isArchived !== false });
}

/** In a conversation that is over nothing is read any more; what still runs there is ended. */
export async function finishEnded(bridge: Bridge, session: Session, signal: AbortSignal): Promise<void> {
  const { store } = bridge;
  const line = bridge.lineOf(session);
  for (const post of store.posts.open(session.id)) {
    if (post.request !== null && post.kind !== "prompt" && session.remoteId !== null && !signal.aborted)
      await line
        .post(await viewOf(bridge, session), [post.request], () => undefined, signal)
        .catch((error: unknown) => {
          if (!(error instanceof BridgeError)) throw error;
          // What it does not take there is nothing left to end.
          if (error.retry !== "never") throw error;
        });
    if (signal.aborted) return;
    store.posts.finish(post.id);
    if (post.request?.kind === "result") store.calls.markPosted(post.request.toolUseId, bridge.clock.now());
  }
}

/** Deletes at Claude what a person had deleted here, and what was made there for a conversation that is over before it was known. */
export async function sweep({ store, log }: Bridge, remote: Remote, signal: AbortSignal): Promise<void> {
  const { settings, sessions } = store;
  const attempt = (key: Key, work: () => Promise<unknown>): Promise<unknown> =>
    work()
      .then(() => settings.remove(key))
      .catch((error: unknown) => {
        if (!(error instanceof BridgeError)) throw error;
        log.warn("a session is still to be deleted at Claude", toFault(error));
      });
  for (const remoteId of settings.idsOf("forget"))
    await attempt(`forget:${remoteId}`, () => remote.remove(remoteId, signal));
  for (const id of settings.idsOf("creating"))
    if (sessions.get(id)?.state !== "active")
      await attempt(`creating:${id}`, async () => {
        const remoteId = await remote.find({ metadata: metadataOf(id) }, signal);
        if (remoteId !== null) await remote.remove(remoteId, signal);
      });
}
