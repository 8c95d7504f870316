/** What a decision says is written in the transaction of its fact, and wakes what it touched. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import type { Remote } from "../../src/claude/line.ts";
import type { Bridge } from "../../src/loops/bridge.ts";
import { lookUp } from "../../src/loops/elsewhere.ts";
import type { SessionEvent } from "../../src/core/model.ts";
import { createChatRig, noteOf, self, textContent, type ChatRig } from "../doubles/chats.ts";

let rig: ChatRig;
beforeEach(async () => void (rig = await createChatRig()));
afterEach(() => rig.close());

const count = (table: string): number => rig.store.db.get<{ n: number }>(`SELECT count(*) AS n FROM ${table}`)?.n ?? 0;
/** Each of them fails when it is written. */
const breakOn = (table: string): void =>
  rig.store.db.exec(`CREATE TEMP TRIGGER broken BEFORE INSERT ON ${table} BEGIN SELECT RAISE(ABORT, 'disk full'); END`);
const mend = (): void => rig.store.db.exec("DROP TRIGGER broken");

test("rule 2: work is written with the fact that caused it, or neither is", () => {
  for (const table of ["posts", "outbox", "sessions"]) {
    breakOn(table);
    expect(() => rig.say("hi", 1)).toThrow("disk full");
    expect([count("inbox"), count("posts"), count("outbox"), count("sessions")]).toEqual([0, 0, 0, 0]);
    expect(rig.touched).toEqual([]);
    mend();
  }
  rig.say("hi", 1);
  expect([count("inbox"), count("posts"), count("outbox"), count("sessions")]).toEqual([1, 1, 1, 1]);
});

test("rule 7: a commit wakes the queues of the chats and sessions that it touched, once it is one", () => {
  rig.store.db.transaction(() => {
    rig.say("hi", 1);
    expect(rig.touched).toEqual([]);
  });
  expect(rig.touched).toEqual([["self", ["s1"]]]);
  // Behind another there is nothing to be asked yet.
  const second = rig.say("and this?", 2);
  expect(rig.touched.at(-1)).toEqual(["self", []]);
  const first = rig.store.inbox.head("self")[0]?.id ?? 0;
  rig.post(first, "p");
  rig.log([
    { id: "r", at: rig.now + 1, type: "reply", text: "yes" },
    { id: "i", at: rig.now + 2, type: "idle", stop: { kind: "end_turn" } },
  ]);
  expect(rig.touched.at(-1)).toEqual(["self", ["s1"]]);
  expect(rig.store.posts.ofPrompt(second)?.state).toBe("queued");
  const before = rig.touched.length;
  rig.settle({ type: "started" });
  expect(rig.touched.length).toBe(before);
});

test("rule 7: what a transaction wrote that was rolled back wakes nothing", () => {
  const broken = (): void =>
    rig.store.db.transaction(() => {
      rig.say("hi", 1);
      throw new Error("its ratchet could not be kept");
    });
  expect(broken).toThrow("ratchet");
  expect(rig.touched).toEqual([]);
  expect(count("inbox")).toBe(0);
});

test("a message that comes again changes nothing and wakes nothing", () => {
  rig.say("hi", 1);
  const before = rig.touched.length;
  expect(rig.take(noteOf("hi", 1))).toBeNull();
  expect([count("inbox"), count("posts"), rig.touched.length]).toEqual([1, 1, before]);
});

test("what is over as it comes is over in the inbox, too: commands, answers, an edit with the same words", () => {
  const first = rig.say("hi", 1);
  for (const words of ["/status", "/approve", "/help"]) rig.say(words);
  rig.take(noteOf({ kind: "edit", targetSentAt: 1, body: textContent("hi ") }, 90));
  expect(rig.store.inbox.openPrompts("self").map(({ id }) => id)).toEqual([first]);
});

test("a fresh conversation keeps what was chosen for the chat, and nothing else of the one before", () => {
  rig.say("/verbose on");
  rig.say("/title Taxes");
  rig.say("/new");
  rig.say("hi");
  const session = rig.store.sessions.active("self");
  expect(session?.context).toMatchObject({ verbose: true });
  expect(session?.context["title"]).not.toBe("Taxes");
});

/** What Claude has of it, as the one place that looks an uncertain post up sees it. */
const asked = async (prompts: readonly SessionEvent[]): Promise<void> => {
  const bridge = { store: rig.store, chats: rig.chats } as unknown as Bridge;
  const list: Remote["list"] = async function* () {
    yield prompts;
  };
  const { signal } = new AbortController();
  await lookUp({ bridge, remote: { list } as Remote, sessionId: "s1", remoteId: "remote", signal });
};
const uncertain = (text: string): number => {
  const id = rig.say(text);
  const post = rig.store.posts.ofPrompt(id);
  rig.store.posts.markPosting(post?.id ?? 0, rig.now, { kind: "prompt", text, files: [] });
  return id;
};

test("rule 5: an uncertain post is looked up: what arrived is not posted again, what did not is", async () => {
  const id = uncertain("hi");
  await asked([{ id: "other", at: rig.now, type: "prompt", text: "something else" }]);
  expect(rig.store.posts.ofPrompt(id)).toMatchObject({ state: "queued", eventId: null });
  rig.store.posts.markPosting(rig.store.posts.ofPrompt(id)?.id ?? 0, rig.now, null);
  await asked([{ id: "e", at: rig.now, type: "prompt", text: "hi" }]);
  expect(rig.store.posts.ofPrompt(id)).toMatchObject({ state: "posted", eventId: "e" });
});

test("rule 5: an entry is one post's alone, and one that was thrown away is no answer", async () => {
  const first = uncertain("ok");
  await asked([{ id: "e", at: rig.now, type: "prompt", text: "ok" }]);
  rig.log([{ id: "i", at: rig.now + 1, type: "idle", stop: { kind: "end_turn" } }]);
  expect(rig.store.inbox.get(first)?.state).toBe("done");
  const second = uncertain("ok");
  await asked([{ id: "e", at: rig.now, type: "prompt", text: "ok" }]);
  expect(rig.store.posts.ofPrompt(second)?.state).toBe("queued");
  rig.store.posts.markPosting(rig.store.posts.ofPrompt(second)?.id ?? 0, rig.now, null);
  const flushed: SessionEvent = { id: "f", at: rig.now + 5, type: "prompt", text: "ok" };
  rig.log([flushed, { id: "j", at: rig.now + 6, type: "idle", stop: { kind: "retries_exhausted" } }]);
  await asked([flushed]);
  // It is no failure of Claude's either.
  const { state, tries } = rig.store.posts.ofPrompt(second) ?? {};
  expect([state, tries]).toEqual(["queued", {}]);
});

test("rule 6: nothing in the database says how long to wait", () => {
  const columns = rig.store.db.all<{ name: string }>(
    `SELECT t.name || '.' || c.name AS name FROM sqlite_master AS t JOIN pragma_table_info(t.name) AS c
      WHERE t.type = 'table' AND t.name IN ('inbox', 'outbox', 'posts', 'events', 'sessions', 'calls')`,
  );
  expect(columns.length).toBeGreaterThan(50);
  expect(columns.filter(({ name }) => /before|until|due|retry|next/u.test(name))).toEqual([]);
});

test("where thousands wait, the line's return and an edit read those alone that they need", async () => {
  rig.close();
  // Its checks read all of it, too.
  rig = await createChatRig({ isChecked: false });
  for (let index = 1; index <= 20; index++) rig.say(`question ${index}`, index);
  rig.store.inbox.openPrompts = () => {
    throw new Error("All that waits was read");
  };
  rig.settle({ type: "back" });
  expect(rig.texts().at(-1)).toMatch(/^20 messages waiting/u);
  const edit = {
    ...noteOf("question 7, better", 30),
    content: { kind: "edit", targetSentAt: 7, body: textContent("question 7, better") },
  } as const;
  rig.take(edit);
  const [named] = rig.view().named(7);
  expect(named?.versions).toContain(30);
  expect(rig.view().waiting()).toEqual({ count: 20, newest: 21 });
});

test("a plain yes that was written while the question was on its way answers nothing; one that was written after it does", () => {
  const id = rig.say("work");
  rig.post(id, "p");
  rig.log([
    { id: "t", at: ++rig.now, type: "tool_use", name: "bash", input: { command: "make" }, isAsk: true, isLocal: false },
    { id: "w", at: rig.now, type: "idle", stop: { kind: "requires_action", eventIds: ["t"] } },
  ]);
  const ask = rig.store.outbox.of("ask", { sessionId: "s1", id: "t" })[0];
  const began = ++rig.now;
  rig.store.outbox.markSending(ask?.id ?? 0, began);
  rig.now += 10_000;
  rig.store.outbox.markSent(ask?.id ?? 0, ask?.timestamp ?? 0, rig.now);
  rig.say("yes", rig.now - 1_000);
  expect(rig.store.posts.isConfirmed("t")).toBe(false);
  rig.say("yes", ++rig.now);
  expect(rig.store.posts.isConfirmed("t")).toBe(true);
});

test("a person who has seen a preview, a reply or a fault is not told that Claude is at work; any other is, once", () => {
  const tell = (id: number): readonly string[] =>
    rig.settle({ type: "slow", id }).flatMap((change) => (change.do === "say" ? change.why : []));
  const id = rig.say("hard");
  rig.post(id, "p");
  expect([tell(id), tell(id)]).toEqual([["slow"], []]);
  const seenBy: { readonly [what: string]: (id: number) => unknown } = {
    preview: (one) => rig.store.drafts.addDraft(one, self, { text: "I am", styles: [] }, rig.now),
    reply: () => rig.log([{ id: "r", at: ++rig.now, type: "reply", text: "So far" }]),
    fault: (one) => rig.store.inbox.markTold(one, "claude_key"),
  };
  rig.say("/stop");
  for (const [what, see] of Object.entries(seenBy)) {
    const one = rig.say(what);
    rig.post(one, what);
    see(one);
    expect([what, tell(one)]).toEqual([what, []]);
    rig.say("/stop");
  }
});

test("a conversation whose project is worked on with another line is over with the next prompt, and what was chosen in it lasts", async () => {
  let backend = "scripted";
  const other = await createChatRig({ project: () => ({ name: "garden", model: null, backend }) });
  try {
    other.say("/effort high", 1);
    const first = other.store.sessions.active("self");
    backend = "own";
    other.say("/status", 2);
    expect(other.store.sessions.active("self")?.id).toBe(first?.id);
    other.say("hi", 3);
    expect(other.store.sessions.get(first?.id ?? "")?.state).toBe("ended");
    expect(other.store.sessions.active("self")).toMatchObject({ backend: "own", context: { effort: "high" } });
  } finally {
    other.close();
  }
});
