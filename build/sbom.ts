/**
 * The bill of materials of a release: what package.json names for run time, and all that it needs, as bun.lock has it.
 * **Source:** CycloneDX 1.6, JSON.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";

type Entry = readonly [
  id: string,
  source: string,
  details?: { dependencies?: Record<string, string> },
  integrity?: string,
];
type Manifest = {
  name: string;
  version: string;
  license: string;
  dependencies: Record<string, string>;
  devDependencies: Record<string, string>;
};

/** A lock is JSON with commas at the ends. */
const readLock = (text: string): Record<string, Entry> =>
  (JSON.parse(text.replaceAll(/,(?=\s*[}\]])/gu, "")) as { packages: Record<string, Entry> }).packages;

/** `pkg:npm/%40scope/name@1.0.0`. **Source:** package-url, type npm. */
const purlOf = (name: string, version: string): string => `pkg:npm/${name.replace("@", "%40")}@${version}`;

/** The document as a value; the same input gives the same bytes. */
export function createSbom(root: string) {
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as Manifest;
  const lock = readLock(readFileSync(join(root, "bun.lock"), "utf8"));
  const found = new Map<string, Entry>();
  const visit = (name: string, parent: string): void => {
    const nested = `${parent}/${name}`;
    const key = nested in lock ? nested : name;
    const entry = lock[key];
    if (entry === undefined || found.has(key)) return;
    found.set(key, entry);
    for (const next of Object.keys(entry[2]?.dependencies ?? {})) visit(next, key);
  };
  for (const name of Object.keys(manifest.dependencies)) visit(name, "");
  const components = [...found.values()].map(([id, , , integrity = ""]) => {
    const at = id.lastIndexOf("@");
    const [name, version] = [id.slice(0, at), id.slice(at + 1)];
    const content = Buffer.from(integrity.replace(/^sha512-/u, ""), "base64").toString("hex");
    const purl = purlOf(name, version);
    return { type: "library", "bom-ref": purl, name, version, purl, hashes: [{ alg: "SHA-512", content }] };
  });
  // The runtime is part of each binary.
  const bun = manifest.devDependencies["bun"] ?? "";
  const runtime = {
    type: "platform",
    "bom-ref": purlOf("bun", bun),
    name: "bun",
    version: bun,
    purl: purlOf("bun", bun),
  };
  const { name, version, license } = manifest;
  return {
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    version: 1,
    metadata: {
      component: { type: "application", "bom-ref": name, name, version, licenses: [{ license: { id: license } }] },
    },
    components: [runtime, ...components.sort((a, b) => (a.purl < b.purl ? -1 : 1))],
  };
}
