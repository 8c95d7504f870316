/** `signalman people|groups|allow|disallow`: who may ask besides those of the settings, as in the chat; a running daemon goes by it at once. */
import { changeGuests, listGuests, type Guests } from "../core/guests.ts";
import { readAddressee } from "../settings.ts";
import { harmless } from "../log.ts";
import { createGuests, setAllowed } from "../store/allowed.ts";
import { openStore, type Store } from "../store/store.ts";
import { configOf, type Cli } from "./io.ts";

type Said = { readonly text: string; readonly isRefused?: true };

async function withGuests(cli: Cli, work: (guests: Guests, store: Store) => Said): Promise<number> {
  const { home, allow } = configOf(cli);
  using stack = new DisposableStack();
  const store = stack.adopt(await openStore(home, { isExclusive: false }), (opened) => opened.close());
  const { text, isRefused } = work(createGuests(store.settings, allow, readAddressee), store);
  // What is /allow in the chat is `signalman allow` here.
  (isRefused ? cli.err : cli.out)(`${harmless(text).replaceAll(/(?<=^|\s)\/(\w+)/gmu, "`signalman $1`")}\n`);
  return isRefused ? 2 : 0;
}

const list = (isGroups: boolean) => (cli: Cli) => withGuests(cli, (guests) => ({ text: listGuests(guests, isGroups) }));
export const listPeople = list(false);
export const listGroups = list(true);

const change =
  (isAllowed: boolean) =>
  (cli: Cli, _: unknown, ...words: string[]): Promise<number> =>
    withGuests(cli, (guests, store) => {
      const done = changeGuests(guests, { kind: "self" }, words.join(" "), isAllowed);
      for (const { rule } of done.changes) setAllowed(store.settings, rule, isAllowed);
      return done;
    });
export const allow = change(true);
export const disallow = change(false);
