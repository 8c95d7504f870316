/** The policy of a project: every call is free, asks the owner, or never happens. Pure and total. */

/** The act of a call, by the name of its tool on the wire. */
export const acts = {
  local_read: "read",
  local_glob: "list",
  local_grep: "search",
  local_write: "change",
  local_edit: "change",
  local_run: "run",
} as const;

export type ToolName = keyof typeof acts;
export type Act = (typeof acts)[ToolName];
export const isToolName = (name: string): name is ToolName => Object.hasOwn(acts, name);

/** Tools of the owner's own `claude` program, each with the tool of ours that does the same. */
export const twins: { readonly [name: string]: ToolName | undefined } = {
  Read: "local_read",
  Glob: "local_glob",
  Grep: "local_grep",
  Edit: "local_edit",
  Write: "local_write",
  Bash: "local_run",
};

/** `secret` asks even to be read; `guarded` steers programs or later sessions; `odd` is a name made to deceive. */
export type PathKind = "ordinary" | "guarded" | "secret" | "odd";
/** `isGranted`: `always` was said for edits of this project, and its hour is not over. */
export type Rules = { readonly run: boolean; readonly ask: "writes" | "all"; readonly isGranted: boolean };
export type Ruling = { readonly verdict: "free" | "asks" | "never"; readonly reason: string };

const secretParts = [
  /^\.env(rc|$|[.\-_])|\.env$/u,
  /^\.(ssh|gnupg|aws|azure|kube|docker|gcloud|password-store|vault-token|netrc|npmrc|pypirc|pgpass|my\.cnf|htpasswd|dockercfg|boto|s3cfg|git-credentials|[a-z]+_history)$|^(_netrc|rclone\.conf|auth\.json|\.yarnrc(\.yml)?)$/u,
  /^(credentials?|secrets?|client[-_]secret|service[-_]account|kubeconfig)([.\-_]|$)|\.kubeconfig$/u,
  /[-_.](credentials?|secrets?)\.(json|ya?ml|toml|ini|txt|csv|xml|properties|enc|conf|cfg)$|\.secrets?$/u,
  /(access|root|secret)[-_]?keys?\.csv$/u,
  /^((private|api)[-_]?)?(keys?|passwords?|tokens?)(\.(json|txt|ya?ml|toml|csv|ini))?$/u,
  /^id_(rsa|dsa|ecdsa|ed25519)/u,
  /\.(pem|key|p8|p12|pfx|jks|keystore|kdbx|ppk|gpg|age|asc|keytab|ovpn|tfstate|tfvars)$/u,
];
const guardedParts =
  /^(\.git|\.claude|\.github|\.gitea|\.forgejo|\.gitlab-ci\.yml|\.circleci|\.woodpecker(\.ya?ml)?|jenkinsfile|\.pre-commit-config\.ya?ml|\.?lefthook\.ya?ml|\.vscode|\.idea|\.cursor\w*|\.husky|\.devcontainer|\.gitattributes|\.gitmodules|\.mcp\.json|(claude(\.local)?|agents|gemini)\.md)$/u;

/**
 * A name as the laxest file system takes it (letter case, invisible characters, full width, dots and spaces at its end), without the marks
 * that editors and people add to the name of a copy.
 */
const fold = (part: string): string =>
  part
    .normalize("NFKC")
    .replaceAll(/\p{Cf}/gu, "")
    .toLowerCase()
    .replace(/:.*$/u, "")
    .replace(/(?<=.)[. ]+$/u, "")
    .replace(/^[.#~]+(?=\.)|^#/u, "")
    .replace(/(?<=.)([~#]|\.(bak|backup|old|orig|save|sw[op]|tmp|copy|\d+))+$/u, "");

/** The kind of a path within the folder, by its name alone; `/` or `\` between its parts. */
export function pathKind(path: string): PathKind {
  // Line breaks and marks that turn the direction of writing could make the question show something else.
  if (/[\p{Cc}\p{Bidi_Control}\u2028\u2029]/u.test(path)) return "odd";
  const parts = path.split(/[/\\]/u).map(fold);
  if (parts.some((part) => secretParts.some((pattern) => pattern.test(part)))) return "secret";
  // Git's logs and heads may have addresses with a password in them.
  if (/(^|\/)\.git\/(.*\/)?(config|credential|fetch_head$|logs(\/|$))/u.test(parts.join("/"))) return "secret";
  return parts.some((part) => guardedParts.test(part)) ? "guarded" : "ordinary";
}

const free = (reason: string): Ruling => ({ verdict: "free", reason });
const asks = (reason: string): Ruling => ({ verdict: "asks", reason });
const never = (reason: string): Ruling => ({ verdict: "never", reason });

/** Rules on a call. `paths`: as Claude wrote it, and with every link followed; null where that leads out of the folder. */
export function judge(tool: string, paths: readonly string[] | null, { run, ask, isGranted }: Rules): Ruling {
  if (!isToolName(tool)) return never(`There is no tool ${tool} here; there are ${Object.keys(acts).join(", ")}`);
  const act = acts[tool];
  if (act === "run")
    return run ? asks("a command can do whatever you can") : never("This project does not let Claude run commands");
  if (paths === null) return never("The path leads out of the project's folder");
  const kinds = new Set(paths.map(pathKind));
  if (kinds.has("odd")) return never("The path has control characters in it");
  if (kinds.has("secret")) return asks("it may hold a secret");
  if (act !== "change") return ask === "all" ? asks("this project asks for everything") : free("reading is free here");
  if (kinds.has("guarded")) return asks("it steers programs or what Claude is told later");
  return isGranted ? free("you said always") : asks("it changes a file");
}

/** True for a call that `always` frees for an hour: an edit of an ordinary file, by the path as Claude wrote it. */
export function isFreed({ tool, input }: { readonly tool: string; readonly input: unknown }): boolean {
  const path = (input as { readonly file_path?: unknown } | null)?.file_path;
  const name = twins[tool] ?? tool;
  const isEdit = isToolName(name) && acts[name] === "change" && typeof path === "string";
  return isEdit && judge(name, [path], { run: false, ask: "writes", isGranted: true }).verdict === "free";
}
