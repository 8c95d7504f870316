/** Shell completions and the man page, from the definition of the command line itself. */
import type { Command, Option } from "commander";
import { errorTable } from "../core/errors.ts";
import { fileKey, settingKeys, settingRow, variableOf } from "../settings.ts";
import { version } from "../version.ts";

export type Shell = "bash" | "zsh" | "fish";

type Node = {
  /** Names from the program down: "sessions show"; empty for the program itself. */
  readonly path: string;
  readonly command: Command;
  readonly commands: readonly Command[];
  readonly options: readonly Option[];
};

const visible = (command: Command): Command[] => command.commands.filter((sub) => sub.name() !== "help");

function nodesOf(command: Command, path = ""): Node[] {
  const commands = visible(command);
  const below = commands.flatMap((sub) => nodesOf(sub, `${path} ${sub.name()}`.trim()));
  return [{ path, command, commands, options: command.options }, ...below];
}

const wordsOf = ({ commands, options }: Node): string =>
  [...commands.map((command) => command.name()), ...options.flatMap(({ long }) => long ?? []), "--help"].join(" ");

/** A script for `shell` that knows every command and flag. */
export function completions(program: Command, shell: Shell): string {
  const nodes = nodesOf(program);
  if (shell === "fish") return fish(nodes);
  const cases = nodes.map((node) => `    "${node.path}") known="${wordsOf(node)}" ;;`).join("\n");
  const paths = nodes.map(({ path }) => `"${path}"`).join("|");
  const walk = (words: string): string => `  for word in ${words}; do
    next="\${at:+$at }$word"
    case "$next" in ${paths}) at="$next" ;; esac
  done
  case "$at" in
${cases}
  esac`;
  if (shell === "zsh")
    return `#compdef signalman
_signalman() {
  local word next at="" known=""
${walk('"${words[@]:1:$((CURRENT - 2))}"')}
  compadd -- \${=known}
}
compdef _signalman signalman
`;
  return `_signalman() {
  local word next at="" known=""
${walk('"${COMP_WORDS[@]:1:COMP_CWORD-1}"')}
  COMPREPLY=($(compgen -W "$known" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _signalman -o default signalman
`;
}

function fish(nodes: readonly Node[]): string {
  const quote = (text: string): string => `'${text.replaceAll(/['\\]/gu, "\\$&")}'`;
  const lines = nodes.flatMap(({ path, commands, options }) => {
    const when = path === "" ? "__fish_use_subcommand" : `__fish_seen_subcommand_from ${path.split(" ").at(-1) ?? ""}`;
    const words = commands.map(
      (command) => `-n ${quote(when)} -a ${command.name()} -d ${quote(command.description())}`,
    );
    const flags = options.map(
      ({ long, description, required }) =>
        `${path === "" ? "" : `-n ${quote(when)} `}-l ${(long ?? "").slice(2)}${required ? " -r" : ""} -d ${quote(description)}`,
    );
    return [...words, ...flags];
  });
  return lines.map((line) => `complete -c signalman ${line}\n`).join("");
}

/** The page for man(1), in the language of man(7). */
export function manPage(program: Command): string {
  const text = (words: string): string =>
    words
      .replaceAll("\\", "\\e")
      .replaceAll("-", "\\-")
      .replaceAll(/^(?=[.'])/gmu, "\\&")
      .replaceAll(
        /[^\n -~]/gu,
        (sign) => `\\[u${(sign.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}]`,
      );
  const section = (title: string, ...items: (readonly [term: string, what: string])[]): string =>
    `.SH ${title}\n${items.map(([term, what]) => `.TP\n.B ${text(term)}\n${text(what)}\n`).join("")}`;
  const nodes = nodesOf(program);
  const usage = ({ path, command }: Node): string => `signalman ${path} ${command.usage()}`.replaceAll(/\s+/gu, " ");
  const optionsOf = (node: Node): [string, string][] =>
    node.options.map(({ flags, description }) => [flags, description]);
  const settings = settingKeys.map((key): [string, string] => {
    const { doc, fallback } = settingRow(key);
    const place = settingRow(key).isOutsideFile ? "" : ` In config.toml: ${fileKey(key)}.`;
    return [variableOf(key), `${doc}.${place}${fallback === null || key === "system" ? "" : ` Default: ${fallback}.`}`];
  });
  const exits = new Set<number>(Object.values(errorTable).map(({ exit }) => exit));
  const meanings = [
    "done",
    "failed",
    "usage or configuration",
    "the account is not linked",
    "the daemon is not running",
  ];
  return [
    `.TH SIGNALMAN 1 "" "signalman ${version}"\n.SH NAME\nsignalman \\- ${text(program.description())}\n`,
    section("COMMANDS", ...nodes.slice(1).map((node): [string, string] => [usage(node), node.command.description()])),
    section("OPTIONS", ...nodes.flatMap(optionsOf)),
    section("ENVIRONMENT", ...settings),
    section(
      "EXIT STATUS",
      ...meanings.flatMap((what, exit): [string, string][] =>
        exit === 0 || exits.has(exit) ? [[String(exit), what]] : [],
      ),
    ),
  ].join("");
}
