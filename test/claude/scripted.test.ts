import { describe, expect, test } from "bun:test";
import { codeOf, createLocal, never, settled, whileTimePasses } from "../contract/line.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { createScriptedClaude, type ScriptedClaude } from "../doubles/scripted.ts";

describe("scripted", () => {
  test("answers by itself, after a moment, without a script", async () => {
    const clock = createVirtualClock();
    const local = createLocal(createScriptedClaude({ clock }));
    expect(await whileTimePasses(clock, local.ask("hello"))).toEqual({ kind: "end_turn" });
    expect(local.replies()[0]).toStartWith("You wrote: hello");
  });

  test("says the same in every run", async () => {
    const play = async (): Promise<string> => {
      const clock = createVirtualClock(0);
      const claude = createScriptedClaude({ clock, script: (prompt) => [{ pauseMs: 1 }, { write: ["re: ", prompt] }] });
      const local = createLocal(claude);
      await whileTimePasses(clock, local.ask("a"));
      claude.fail("post", { kind: "lose" });
      const lost = await codeOf(local.ask("b"));
      await clock.advance(10);
      return JSON.stringify([lost, await local.list()]);
    };
    expect(await play()).toBe(await play());
  });

  test("goes on working while the line is down", async () => {
    const clock = createVirtualClock();
    const claude = createScriptedClaude({ clock, script: () => [{ pauseMs: 60_000 }, { say: "done" }] });
    const local = createLocal(claude);
    const asking = local.ask("work", (frame) => frame.kind === "event" && claude.setDown(true));
    expect(await codeOf(asking)).toBe("claude_stream_lost");
    expect(await codeOf(local.ask("more"))).toBe("claude_unreachable");
    await clock.advance(120_000);
    claude.setDown(false);
    await local.list();
    expect(local.replies()).toEqual(["done"]);
  });

  test("serves several devices, which see each other's words", async () => {
    const clock = createVirtualClock();
    const laptop = createScriptedClaude({ clock, script: (prompt) => [{ say: `re: ${prompt}` }] });
    const phone: ScriptedClaude = createScriptedClaude({ clock, world: laptop.world });
    const local = createLocal(laptop);
    await local.ask("from the laptop");
    const texts: string[] = [];
    for await (const page of phone.line.remote?.list(local.remoteId(), "all", never) ?? [])
      texts.push(...page.flatMap((event) => (event.type === "reply" ? [event.text] : [])));
    expect(texts).toEqual(["re: from the laptop"]);
  });

  test("leaves no timer behind", async () => {
    const clock = createVirtualClock();
    const claude = createScriptedClaude({ clock, script: () => [{ say: "hi" }] });
    await createLocal(claude).ask("hello");
    await settled(() => claude.world.sessions()[0]?.listeners.size === 0);
    await clock.advance(0);
    expect(clock.timerCount()).toBe(0);
  });
});
