/** The command line: names, flags and help. The work of a command is in a file of its own, imported when it runs. */
import { Command, CommanderError } from "commander";
import { didYouMean } from "../core/nearest.ts";
import { harmless } from "../log.ts";
import { flagOf, settingKeys, settingRow } from "../settings.ts";
import { commit, version } from "../version.ts";
import { reportFailure, type Cli, type Io } from "./io.ts";

const usageExit = 2;

type Options = {
  readonly [flag in "json" | "force" | "script" | "check" | "run" | "wait" | "new" | "follow"]?: true;
} & { readonly name?: string; readonly captcha?: string; readonly file?: readonly string[] };
type Work = (cli: Cli, options: Options, ...args: string[]) => number | Promise<number>;
/** The purpose of a command (empty: hidden from the help), its work, its options and arguments. */
type Row = readonly [doc: string, load: () => Work | Promise<Work>, parts?: Readonly<Record<string, string>>];

const json = { "--json": "for programs" };
const oneSession = { "<id>": "its number in the list, an id, or the beginning of one" };
const versionLine = `signalman ${version} (${commit})`;

/** Commands that have commands of their own: without one of them the first is meant. */
const groups: Readonly<Record<string, string>> = {
  sessions: "the conversations with Claude",
  projects: "the folders of this machine that Claude may work on",
  config: "the settings",
  service: "signalman as a service of this user (systemd, launchd)",
};

const start = () => import("./run.ts");
const remote = () => import("./remote.ts");
const home = () => import("./home.ts");
const projects = () => import("./projects.ts");
const completions = () => import("./completions.ts");
const service = async (cli: Cli) => (await import("./service.ts")).serviceOf(cli);

const commands: Readonly<Record<string, Row>> = {
  run: ["start the bridge and stay in the foreground; also without any command", async () => (await start()).start],
  link: [
    "make this program a linked device of your Signal account",
    async () => (await import("./link.ts")).linkCommand,
    {
      "--name <name>": "how the phone lists this device (default: signalman)",
      "--json": "one line of JSON per event",
      "--force": "replace the account that is linked already",
    },
  ],
  demo: [
    "try everything on this machine with a simulated phone",
    async () => (await import("../demo/demo.ts")).demo,
    { "--script": "play a short conversation and exit" },
  ],
  selftest: [
    "break everything on this machine, and show that nothing is lost",
    async () => (await import("../demo/selftest.ts")).selftest,
  ],
  "selftest-life": ["", async () => (await import("../demo/selftest.ts")).selftestLife, { "<url>": "" }],
  send: [
    "send a message through the running daemon",
    async () => (await import("./send-text.ts")).send,
    {
      "<to>": "self, a number, an account id, group:<id>, or a name that is known here",
      "[text...]": "what to say, in Markdown; - or nothing takes standard input",
      "--file <path>": "send a file with it; may stand several times",
      "--wait": "until it was sent; the exit code tells whether",
    },
  ],
  people: ["who may ask Claude", async () => (await home()).listPeople],
  groups: ["in which groups people may ask", async () => (await home()).listGroups],
  allow: [
    "let a person or a group ask",
    async () => (await home()).allow,
    { "<who...>": "a number, an account id, group:<id>, or a name that is known here" },
  ],
  disallow: ["take that back", async () => (await home()).disallow, { "<who...>": "as for allow" }],
  token: [
    "print the token by which scripts may send: POST /send on the status server",
    async () => (await import("./send-text.ts")).token,
    { "--new": "make another, which ends the one of before" },
  ],
  reconnect: [
    "try the line to Signal now",
    async () => (await remote()).reconnect,
    { "--captcha <solution>": "the solved captcha that Signal asked for, beginning with signalcaptcha://" },
  ],
  status: ["how the running daemon stands", async () => (await remote()).status, json],
  health: ["0 while messages come and go, else 1 and why", async () => (await remote()).health],
  logs: [
    "what the service has said",
    () => async (cli, options) => (await service(cli)).logs(options),
    { "-f, --follow": "and what it says from now on" },
  ],
  doctor: ["check everything and say what to do", async () => (await import("./doctor.ts")).doctor, json],
  "sessions list": ["all that are kept here, newest first", async () => (await home()).listSessions, json],
  "sessions show": ["one conversation", async () => (await home()).showSession, { ...oneSession, ...json }],
  "sessions sync": ["compare with Claude now", async () => (await remote()).syncSessions],
  "sessions archive": ["end one, here and at Claude", async () => (await home()).archiveByCommand, oneSession],
  "sessions forget": ["delete one, here and at Claude", async () => (await home()).forgetByCommand, oneSession],
  "projects list": ["all, with what Claude may do there", async () => (await projects()).listProjects, json],
  "projects add": [
    "let Claude work on a folder",
    async () => (await projects()).addProject,
    {
      "<name>": "what it is called in the chat",
      "<folder>": "one folder; not your whole home",
      "--run": "Claude may ask to run commands there",
    },
  ],
  "projects remove": [
    "take a folder away from Claude; nothing in it changes",
    async () => (await projects()).removeProject,
    { "<name>": "of the list" },
  ],
  "projects search": ["", async () => (await projects()).searchHere, { "<what>": "" }],
  "config show": ["what is in force, and where it was set", async () => (await home()).showConfig, json],
  "config edit": ["open config.toml in your editor, and check it", async () => (await home()).editConfig],
  "config path": ["where config.toml is", async () => (await home()).showPath],
  version: ["version and commit", () => (cli) => (cli.out(`${versionLine}\n`), 0)],
  "service status": ["whether it is installed and runs", () => async (cli) => (await service(cli)).status()],
  "service install": [
    "write the service file, start it now and at every login",
    () => async (cli) => (await service(cli)).install(),
  ],
  "service uninstall": ["stop it and remove the service file", () => async (cli) => (await service(cli)).uninstall()],
  restore: [
    "bring a backup back",
    async () => (await home()).restore,
    { "<file>": "what `backup` has written", "--force": "lose what is here" },
  ],
  backup: [
    "copy database and settings while the daemon works",
    async () => (await home()).backup,
    { "<file>": "a new file; it will hold keys and messages" },
  ],
  update: [
    "put the newest release in the place of this binary",
    () => async (cli, options) => (await import("./update.ts")).update(cli, options),
    { "--check": "only say whether there is one", "--force": "take an older one, too" },
  ],
  completions: [
    "print the completions for a shell",
    async () => (await completions()).completions,
    { "<shell>": "bash, zsh or fish" },
  ],
  complete: ["", async () => (await completions()).complete(createProgram), { "[words...]": "" }],
  man: ["print the manual page, for man(1)", async () => (await completions()).man(createProgram)],
};

/** Runs what `argv` (without program and script) says. Resolves to the exit code; never rejects. */
export async function runArgv(argv: readonly string[], io: Io): Promise<number> {
  let code = 0;
  try {
    await createProgram(io, (result) => (code = result)).parseAsync([...argv], { from: "user" });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : usageExit;
    return io.signal.aborted ? 1 : reportFailure(io, error);
  }
}

/** `done` is called with the exit code of the command that was run. */
function createProgram(io: Io, done: (code: number) => void): Command {
  const program = new Command("signalman")
    .description("Chat with Claude over Signal, from one binary that loses nothing.")
    .usage("[options] [command]")
    .version(versionLine)
    .configureOutput({
      writeOut: io.out,
      writeErr: io.err,
      outputError: (text, write) => write(harmless(text.replace(/^error:/, "signalman:"))),
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .configureHelp({ showGlobalOptions: true })
    .showHelpAfterError("`signalman --help` lists what there is.")
    .helpCommand("help [command]", "explain a command")
    .exitOverride();
  for (const key of settingKeys) {
    const flag = flagOf(key);
    if (flag === null) continue;
    const { doc, fallback, words } = settingRow(key);
    const isSaid = fallback === null || key === "system";
    const option = program.createOption(flag, isSaid ? doc : `${doc} (default: ${fallback})`);
    // commander is told the values for completions only: the settings check them, in flags, file and environment alike.
    if (words) option.argChoices = [...words];
    program.addOption(option);
  }
  const does =
    (load: Row[1]) =>
    async (...all: unknown[]): Promise<void> => {
      const command = all.at(-1) as Command;
      const extra = command.registeredArguments.length === 0 ? command.args[0] : undefined;
      if (extra !== undefined) refuse(command.parent ?? program, extra);
      const work = await load();
      const args = command.processedArgs as (string | string[])[];
      done(await work({ ...io, flags: program.opts() }, command.opts(), ...args.flat()));
    };
  program.allowExcessArguments().action(does(async () => (await start()).start));
  const groupOf = (group: string): Command =>
    program.commands.find((command) => command.name() === group) ??
    program.command(group).description(groups[group] ?? "");
  for (const [path, [doc, load, parts = {}]] of Object.entries(commands)) {
    const [name = "", group] = path.split(" ").reverse();
    const parent = group === undefined ? program : groupOf(group);
    const isDefault = parent !== program && parent.commands.length === 0;
    const command = parent
      .command(name, { hidden: doc === "", isDefault })
      .description(doc)
      .allowExcessArguments(isDefault)
      .action(does(load));
    for (const [form, what] of Object.entries(parts))
      if (form === "--file <path>") command.option(form, what, (path, before?: string[]) => [...(before ?? []), path]);
      else if (form.startsWith("-")) command.option(form, what);
      else command.argument(form, what);
  }
  return program;
}

/** Refuses a word that is no command, with the nearest one, by exit code 2. */
function refuse(program: Command, name: string): never {
  const known = program.createHelp().visibleCommands(program);
  const names = known.map((command) => command.name());
  return program.error([`error: unknown command '${name}'`, didYouMean(name, names)].filter(Boolean).join(". "));
}
