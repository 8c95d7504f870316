/** Writes a decision's changes of calls of our own tools: the journal and their results. Part of `apply.ts`, in the same transaction. */
import type { Change, ChangeOf } from "../core/changes.ts";
import type { Chat } from "../core/model.ts";
import type { Store } from "./store.ts";
import type { Surroundings } from "./view.ts";

/** The writers, one per change; each returns the id of the session that has new work, if one has. */
export type Writes = { readonly [Do in Change["do"]]: (chat: Chat, change: ChangeOf<Do>) => string | void };

export function createCallWrites(store: Store, world: Surroundings) {
  const { calls, sessions, settings, reminders, db } = store;
  return {
    call(_, { sessionId, turn, use: { id, name, input } }) {
      const project = sessions.get(sessionId)?.project ?? "";
      calls.see({ id, sessionId, turn, project, tool: name, input }, world.now());
      return sessionId;
    },
    look: (_, { sessionId }) => sessionId,
    askCall: (_, { useId, basis }) => void calls.ask(useId, basis, world.now()),
    result(_, { sessionId, useId, text, isError }) {
      calls.finish(useId, { content: text, isError }, world.now());
      postResult(store, world, sessionId, useId, text, isError);
      return sessionId;
    },
    schedule: (chat, { plan, number, source }) => void reminders.add(plan, { chat, number, source }, world.now()),
    reschedule: (_, { id, dueAt }) => void (dueAt === null ? reminders.remove(id) : reminders.move(id, dueAt)),
    grantEdits: (_, { project }) => db.afterCommit(() => world.grantEdits(project)),
    paid: (_, { id }) => void settings.remove(`owed:${id}`),
    owe(chat, { id, sessionId, work }) {
      settings.set(`owed:${id}`, JSON.stringify({ chat, sessionId, work }));
      db.afterCommit(() => world.onOwe(id));
    },
  } satisfies Partial<Writes>;
}

/** Allows or drops a call: a person said yes or no, or the call is not wanted any more. Returns the id of its session. */
export function answerCall(
  store: Store,
  world: Surroundings,
  { use: { id }, isAllowed, reason, approver }: ChangeOf<"answer">,
): string | undefined {
  if (!isAllowed || approver === null) return dropCall(store, world, id, reason, approver);
  store.calls.allow(id, approver, world.now());
  return store.calls.get(id)?.sessionId;
}

function postResult(
  { posts }: Store,
  world: Surroundings,
  sessionId: string,
  useId: string,
  text: string,
  isError: boolean,
): void {
  const request = { kind: "result", toolUseId: useId, text, isError } as const;
  posts.add(sessionId, "result", useId, request, world.now());
}

/** Ends a call that has no result: a call that has not begun never runs, one that runs is stopped. Returns the id of its session. */
function dropCall(store: Store, world: Surroundings, useId: string, reason: string, approver: string | null) {
  const { calls, db } = store;
  const call = calls.get(useId);
  if (call === null) return;
  const isDenied = approver !== null && calls.deny(useId, reason, approver, world.now());
  if (isDenied || calls.expire(useId, reason, world.now()))
    postResult(store, world, call.sessionId, useId, reason, true);
  else db.afterCommit(() => world.onDropped(useId));
  return call.sessionId;
}

/** Ends the conversation, and the calls of it that are open with it. */
export function endSession(store: Store, world: Surroundings, id: string): void {
  for (const call of store.calls.open(id))
    if (call.content === null) dropCall(store, world, call.id, "The conversation is over.", null);
  store.sessions.end(id);
}
