/** Shell completions and the man page, from the definition of the command line itself. */
import bash from "../../packaging/signalman.bash" with { type: "text" };
import fish from "../../packaging/signalman.fish" with { type: "text" };
import zsh from "../../packaging/signalman.zsh" with { type: "text" };
import type { Command, Option } from "commander";
import { loadConfig } from "../config.ts";
import { fileKey, readAddressee, settingKeys, settingRow, variableOf } from "../settings.ts";
import { createGuests, wordOf } from "../store/allowed.ts";
import { version } from "../version.ts";
import { withStore, wrong, type Cli, type Io } from "./io.ts";

/** Scripts that ask the program itself, so that they complete the commands of this very binary. */
const scripts: Readonly<Record<string, string>> = { bash, fish, zsh };

export function completions({ out }: Cli, _: unknown, shell = ""): number {
  const script = scripts[shell];
  if (script === undefined) throw wrong(`Cannot complete in ${shell}`, "It takes bash, zsh or fish.");
  out(script);
  return 0;
}

type Create = (io: Io, done: () => void) => Command;

const visible = (command: Command): Command[] =>
  command
    .createHelp()
    .visibleCommands(command)
    .filter((sub) => sub.name() !== "help");

/** Prints the words that can follow, one a line with its purpose: commands first, then flags. */
export const complete =
  (create: Create) =>
  async (cli: Cli, _: unknown, ...words: string[]): Promise<number> => {
    let at = create(cli, () => undefined);
    for (const word of words) at = visible(at).find((command) => command.name() === word) ?? at;
    const help = at.createHelp();
    const flags = [...help.visibleOptions(at), ...help.visibleGlobalOptions(at)];
    // The value of a flag is no command; where a flag has few values, they are shown.
    const flag = flags.find(({ long, required }) => required && long === words.at(-1));
    const isFirst = at.registeredArguments.length > 0 && words.at(-1) === at.name();
    const values = flag ? flag.argChoices : isFirst && (await valuesOf(cli, [at.parent?.name(), at.name()].join(" ")));
    const names = [
      ...visible(at).map((command) => [command.name(), command.description()]),
      ...flags.map(({ long, description }) => [long, description]),
    ];
    const rows = [...(values || []).map((value) => [value]), ...(flag ? [] : names)];
    cli.out(rows.map((row) => `${row.join("\t")}\n`).join(""));
    return 0;
  };

/** The first arguments that a command may take, as far as they are known here. */
async function valuesOf(cli: Cli, path: string): Promise<readonly string[]> {
  const { config } = loadConfig(cli);
  if (path.endsWith(" completions")) return Object.keys(scripts);
  if (path === "projects remove") return config.projects.map(({ name }) => name);
  const found = await withStore(config, ({ sessions, settings }) => {
    if (/^sessions (?:show|archive|forget)$/u.test(path))
      return sessions.list(valuesMax).map(({ id }) => id.slice(0, 8));
    if (!/ (?:send|disallow)$/u.test(path)) return [];
    const guests = createGuests(settings, config.allow, readAddressee).list();
    return guests.filter(({ isAdded }) => path.endsWith(" send") || isAdded).map(({ rule }) => wordOf(rule));
  });
  return found ?? [];
}

const valuesMax = 50;

const exits = ["done", "failed", "usage or configuration", "no account is linked", "the daemon is not running"];

/** Prints the page for man(1), in the language of man(7). */
export const man =
  (create: Create) =>
  (cli: Cli): number => {
    const program = create(cli, () => undefined);
    const commands = visible(program).flatMap((command) => [command, ...visible(command)]);
    const variables = settingKeys.map((key) => {
      const { doc, fallback, isOutsideFile } = settingRow(key);
      const place = isOutsideFile ? "" : ` In config.toml: ${fileKey(key)}.`;
      return item(
        variableOf(key),
        `${doc}.${place}${fallback === null || key === "system" ? "" : ` Default: ${fallback}.`}`,
      );
    });
    cli.out(
      [
        `.TH SIGNALMAN 1 "" "signalman ${version}"\n.SH NAME\nsignalman \\- ${roff(program.description())}\n`,
        `.SH SYNOPSIS\n.B signalman\n${roff(program.usage())}\n`,
        `.SH COMMANDS\n${commands.map(toEntry).join("")}`,
        `.SH OPTIONS\n${program.options.map(toItem).join("")}`,
        `.SH ENVIRONMENT\n${variables.join("")}`,
        `.SH EXIT STATUS\n${exits.map((what, exit) => item(String(exit), what)).join("")}${item("130", "interrupted")}`,
      ].join(""),
    );
    return 0;
  };

/** A command with its own options below it. */
function toEntry(command: Command): string {
  const group = command.parent?.parent ? `${command.parent.name()} ` : "";
  const own = command.options.map(toItem).join("");
  const usage = `signalman ${group}${command.name()} ${command.usage()}`;
  return item(usage, command.description()) + (own === "" ? "" : `.RS\n${own}.RE\n`);
}

const toItem = ({ flags, description }: Option): string => item(flags, description);
const item = (term: string, what: string): string => `.TP\n.B ${roff(term)}\n${roff(what)}\n`;

const roff = (words: string): string =>
  words
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll(/^(?=[.'])/gmu, "\\&")
    .replaceAll(
      /[^\n -~]/gu,
      (sign) => `\\[u${(sign.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}]`,
    );
