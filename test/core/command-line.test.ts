import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { parseCommand } from "../../src/core/commands.ts";
import { commands } from "../../src/core/commands.ts";
import { nearest } from "../../src/core/nearest.ts";

describe("a command is understood as it was meant", () => {
  test.each([
    ["/new", "new", ""],
    ["/NEW", "new", ""],
    ["/ｎｅｗ", "new", ""],
    ["／stop", "stop", ""],
    ["/new👍", "new", ""],
    ["/new 👍", "new", ""],
    ["/stop!", "stop", ""],
    ["/help?", "help", ""],
    ["/stop@claude_bot", "stop", ""],
    ["@claude /stop", "stop", ""],
    ["\u200B/stop", "stop", ""],
    ["/st\u00ADop\uFE0F", "stop", ""],
    ["/new What is the capital of Peru?", "new", "What is the capital of Peru?"],
    ["/new: What is it?", "new", "What is it?"],
    ["/new\nWhat is it?", "new", "What is it?"],
    ["/title 🌻", "title", "🌻"],
    ["/model opus", "model", "opus"],
    ["/clear", "new", ""],
    ["/reset", "new", ""],
    ["/cancel", "stop", ""],
    ["/yes", "approve", ""],
    ["/no use the other", "deny", "use the other"],
    ["/models", "model", ""],
    ["/cost", "usage", ""],
    ["/whoami", "status", ""],
    ["/ok", "approve", ""],
    ["/always", "approve", "always"],
    ["/again", "retry", ""],
    ["/rename Trip", "title", "Trip"],
    ["/stop the answer that you write", "stop", "the answer that you write"],
    ["/undo the last change", "undo", "the last change"],
    ["/nwe", "nwe", ""],
    ["/tmp", "tmp", ""],
  ])("%p", (text, name, argument) => expect(parseCommand(text)).toEqual({ name, argument }));

  test.each([
    "/tmp is full, what can I delete?",
    "/help me with my homework",
    "/status code 404 means what?",
    "/etc/hosts",
    "/etc/hosts is what?",
    "/stop/now",
    "/new/x",
    "\\stop",
    "/",
    "//",
    "/2",
    "/ stop",
    "stop",
    "what does /stop do?",
    "@anna /tmp",
    "/export-it please",
    "",
  ])("%p is none", (text) => expect(parseCommand(text)).toBeNull());

  test("every command by its name, in any case, with any blank around it; whatever the text, nothing throws", () => {
    const blank = fc.constantFrom("", " ", "\n", "\u200B", "\u2060");
    fc.assert(
      fc.property(fc.constantFrom(...commands), blank, blank, fc.boolean(), ({ name }, before, after, isUpper) => {
        const said = `${before}/${isUpper ? name.toUpperCase() : name}${after}`;
        expect(parseCommand(said)).toEqual({ name, argument: "" });
      }),
    );
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        const command = parseCommand(`/${text}`);
        if (command) expect(command.name).toMatch(/^[a-z_]+$/u);
      }),
    );
  });

  test.each([
    ["nwe", "new"],
    ["hlep", "help"],
    ["stopp", "stop"],
    ["staus", "status"],
    ["sesions", "sessions"],
    ["verbsoe", "verbose"],
    ["tmp", null],
    ["exit", null],
    ["list", null],
    ["test", null],
    ["hi", null],
    ["weather", null],
  ])("the nearest of %p is %p", (word, near) => {
    const names = commands.map(({ name }) => name);
    expect(nearest(word, names)).toBe(near as (typeof names)[number] | null);
  });
});
