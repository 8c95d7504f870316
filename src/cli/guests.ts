/** `signalman people|groups|allow|disallow`: who may ask besides those of the settings, as in the chat; a running daemon goes by it at once. */
import { changeGuests, listGuests, type Guests } from "../core/guests.ts";
import { readAddressee } from "../settings.ts";
import { createGuests, setAllowed } from "../store/allowed.ts";
import { openStore, type Store } from "../store/store.ts";
import { configOf, type Cli } from "./io.ts";

async function withGuests(cli: Cli, work: (guests: Guests, store: Store) => string): Promise<number> {
  const { home, allow } = configOf(cli);
  const store = await openStore(home, { isExclusive: false });
  try {
    // In the terminal a command is called without its slash.
    cli.out(
      `${work(createGuests(store.settings, allow, readAddressee), store).replaceAll(/(^|\s)\/(?=\w)/gu, "$1")}\n`,
    );
  } finally {
    store.close();
  }
  return 0;
}

const list = (isGroups: boolean) => (cli: Cli) => withGuests(cli, (guests) => listGuests(guests, isGroups));
export const listPeople = list(false);
export const listGroups = list(true);

const change =
  (isAllowed: boolean) =>
  (cli: Cli, _: unknown, ...words: string[]): Promise<number> =>
    withGuests(cli, (guests, store) => {
      const { text, changes } = changeGuests(guests, { kind: "self" }, words.join(" "), isAllowed);
      for (const one of changes) if (one.do === "allow") setAllowed(store.settings, one.rule, one.isAllowed);
      return text;
    });
export const allow = change(true);
export const disallow = change(false);
