import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import manifest from "../../package.json";

const root = new URL("../../", import.meta.url).pathname;
const lock = readFileSync(`${root}bun.lock`, "utf8");

test("every direct dependency is pinned exactly, and locked at that version", () => {
  for (const [name, version] of Object.entries({ ...manifest.dependencies, ...manifest.devDependencies })) {
    expect(version).toMatch(/^\d+\.\d+\.\d+$/u);
    expect(lock).toContain(`"${name}": ["${name}@${version}"`);
  }
});

test("every package of the lock file is held to its hash, and none comes from elsewhere than a registry", () => {
  const entries = [...lock.matchAll(/^ {4}"(?<name>[^"]+)": \[(?<rest>.*)\],?$/gmu)];
  expect(entries.length).toBeGreaterThan(50);
  for (const { groups } of entries) {
    expect(groups?.["rest"]).toMatch(/"sha512-[\w+/]{86}=="$/u);
    expect(groups?.["rest"]).not.toMatch(/git\+|github:|file:|link:|\.tgz/u);
  }
});

test("what CI fetches before anything is locked is the pinned runtime", () => {
  const ci = ["ci.yml", "release.yml"].map((name) => readFileSync(`${root}.github/workflows/${name}`, "utf8")).join("");
  const fetched = [...ci.matchAll(/npx -y (\S+)/gu)].map(([, what]) => what);
  expect(new Set(fetched)).toEqual(new Set([`bun@${manifest.devDependencies.bun}`]));
  expect(readFileSync(`${root}.ci/run`, "utf8")).toContain(`npx -y "bun@$(node -p 'require("./package.json")`);
});

test("no package may run a script at its installation but the two runtimes", () => {
  expect(manifest.trustedDependencies).toEqual(["bun", "deno"]);
});

test("no advisory of weight is known for what we ship, as far as the registry can be asked", async () => {
  const child = Bun.spawn([process.execPath, "audit", "--production", "--audit-level=high"], {
    cwd: root,
    stdout: "pipe",
    stderr: "pipe",
  });
  const timer = setTimeout(() => child.kill(), 20_000);
  const said = (await new Response(child.stdout).text()) + (await new Response(child.stderr).text());
  const code = await child.exited;
  clearTimeout(timer);
  const wasAsked = code === 0 || /vulnerabilit/iu.test(said);
  // Offline, and behind a registry without advisories, there is no answer: then the pinned versions and their hashes stand alone.
  if (!wasAsked) console.log("  (the registry gives no advisories here: not audited)");
  else expect({ code, said }).toMatchObject({ code: 0 });
}, 30_000);

test("the binary says nothing of the machine that built it", () => {
  const binary = readFileSync(new URL("../../dist/signalman", import.meta.url));
  expect(binary.includes(new URL("../../node_modules", import.meta.url).pathname)).toBe(false);
});
