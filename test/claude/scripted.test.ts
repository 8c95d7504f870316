import { describe, expect, test } from "bun:test";
import { createScriptedClaude, type ScriptedClaude } from "../doubles/scripted.ts";
import { createLocal, whileTimePasses } from "../contract/backend.ts";
import { createFakeClock } from "../doubles/fake-clock.ts";

const never = new AbortController().signal;

describe("scripted", () => {
  test("answers by itself, after a moment, without a script", async () => {
    const clock = createFakeClock();
    const local = createLocal({ backend: createScriptedClaude({ clock }).backend, clock });
    const outcome = await whileTimePasses(clock, local.ask("hello"));
    expect(outcome.progress.kind).toBe("ended");
    expect(local.replies()[0]).toStartWith("You wrote: hello");
  });

  test("says the same in every run", async () => {
    const play = async (): Promise<string> => {
      const clock = createFakeClock(0);
      const claude = createScriptedClaude({ clock, script: (prompt) => [{ pauseMs: 1 }, { write: ["re: ", prompt] }] });
      const local = createLocal({ backend: claude.backend, clock });
      const outcomes = [await whileTimePasses(clock, local.ask("a"))];
      claude.fail("send", { kind: "lose" });
      outcomes.push(await local.ask("b"), await whileTimePasses(clock, local.again()));
      return JSON.stringify(outcomes.map(({ steps, fault }) => [steps, fault?.message]));
    };
    expect(await play()).toBe(await play());
  });

  test("goes on working while the line is down", async () => {
    const clock = createFakeClock();
    const claude = createScriptedClaude({ clock, script: () => [{ pauseMs: 60_000 }, { say: "done" }] });
    const local = createLocal({ backend: claude.backend, clock });
    const asking = local.ask("work", (step) => step.kind === "asked" && claude.setDown(true));
    expect((await asking).fault?.code).toBe("claude_stream_lost");
    expect((await local.again()).fault?.code).toBe("claude_unreachable");
    await clock.advance(120_000);
    claude.setDown(false);
    expect((await local.again()).progress.kind).toBe("ended");
    expect(local.replies()).toEqual(["done"]);
  });

  test("serves several devices, which see each other's words", async () => {
    const clock = createFakeClock();
    const laptop = createScriptedClaude({ clock, script: (prompt) => [{ say: `re: ${prompt}` }] });
    const phone: ScriptedClaude = createScriptedClaude({ clock, world: laptop.world });
    const local = createLocal({ backend: laptop.backend, clock });
    await local.ask("from the laptop");
    const other = createLocal({ backend: phone.backend, clock });
    await other.ask("elsewhere");
    const texts: string[] = [];
    for await (const page of phone.backend.remote?.events(local.remoteId(), null, never) ?? [])
      texts.push(...page.flatMap((event) => (event.type === "reply" ? [event.text] : [])));
    expect(texts).toEqual(["re: from the laptop"]);
  });

  test("takes nothing new while it waits for a person, or once its budget is used up", async () => {
    const clock = createFakeClock();
    const claude = createScriptedClaude({
      clock,
      script: (prompt) => (prompt === "buy" ? [{ stop: { kind: "budget_reached" } }] : [{ ask: "bash", input: null }]),
    });
    const local = createLocal({ backend: claude.backend, clock });
    expect((await local.ask("run")).progress.kind).toBe("waiting");
    expect(() => claude.world.post(local.remoteId(), "more")).toThrow("takes no message now");
    await claude.backend.remote?.interrupt(local.remoteId(), never);
    await clock.advance(1);
    expect((await local.ask("buy")).progress).toMatchObject({ stop: { kind: "budget_reached" } });
    expect((await local.ask("more")).fault?.code).toBe("claude_request");
  });

  test("leaves no timer behind", async () => {
    const clock = createFakeClock();
    const claude = createScriptedClaude({ clock, script: () => [{ say: "hi" }] });
    await createLocal({ backend: claude.backend, clock }).ask("hello");
    await clock.advance(0);
    expect(clock.sleepers()).toBe(0);
    expect(claude.world.sessions()[0]?.listeners.size).toBe(0);
  });
});
