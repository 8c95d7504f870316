/** A sender made of raw libsignal, for what the mock's phones would never send: forged, broken and replayed messages. */
import { create, toBinary } from "@bufbuild/protobuf";
import {
  type Direction,
  IdentityChange,
  IdentityKeyStore,
  KyberPreKeyRecord,
  PreKeyBundle,
  PreKeyRecord,
  PrivateKey,
  processPreKeyBundle,
  ProtocolAddress,
  type PublicKey,
  SessionRecord,
  SessionStore,
  signalEncrypt,
  SignedPreKeyRecord,
} from "@signalapp/libsignal-client";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { aciBytes } from "../../src/signal/native/ids.ts";
import { owned } from "../../src/signal/native/bytes.ts";
import { pad } from "../../src/signal/native/decrypt.ts";
import { ContentSchema, Envelope_Type, EnvelopeSchema } from "../../src/signal/native/proto/signal_pb.ts";
import type { Database } from "../../src/store/database.ts";

class Sessions extends SessionStore {
  readonly records = new Map<string, Uint8Array<ArrayBuffer>>();
  async saveSession(name: ProtocolAddress, record: SessionRecord): Promise<void> {
    this.records.set(name.toString(), record.serialize());
  }
  async getSession(name: ProtocolAddress): Promise<SessionRecord | null> {
    const record = this.records.get(name.toString());
    return record ? SessionRecord.deserialize(record) : null;
  }
  async getExistingSessions(): Promise<SessionRecord[]> {
    return [];
  }
}

class Identities extends IdentityKeyStore {
  private readonly key: PrivateKey;
  constructor(key: PrivateKey) {
    super();
    this.key = key;
  }
  async getIdentityKey(): Promise<PrivateKey> {
    return this.key;
  }
  async getLocalRegistrationId(): Promise<number> {
    return 77;
  }
  async saveIdentity(): Promise<IdentityChange> {
    return IdentityChange.NewOrUnchanged;
  }
  async isTrustedIdentity(_name: ProtocolAddress, _key: PublicKey, _direction: Direction): Promise<boolean> {
    return true;
  }
  async getIdentity(): Promise<PublicKey | null> {
    return null;
  }
}

export type ContentShape = MessageInitShape<typeof ContentSchema>;
export const contentBytes = (content: ContentShape): Uint8Array =>
  toBinary(ContentSchema, create(ContentSchema, content));

/** A text message as content. */
export const textContent = (body: string, timestamp: number): Uint8Array =>
  contentBytes({ content: { case: "dataMessage", value: { body, timestamp: BigInt(timestamp) } } });

export const envelopeBytes = (
  type: Envelope_Type,
  aci: string,
  timestamp: number,
  content: Uint8Array,
  sourceDeviceId = 1,
): Buffer<ArrayBuffer> =>
  Buffer.from(
    owned(
      toBinary(
        EnvelopeSchema,
        create(EnvelopeSchema, {
          type,
          sourceServiceIdBinary: aciBytes(aci),
          sourceDeviceId,
          clientTimestamp: BigInt(timestamp),
          serverTimestamp: BigInt(timestamp),
          content: owned(content),
        }),
      ),
    ),
  );

/** The public half of our own keys, read from our own database; `kyberId` may be one that we do not have. */
export function bundleFrom(
  database: Database,
  deviceId: number,
  options: { kyberId?: number; isLastResort?: boolean } = {},
) {
  const blob = (sql: string) => {
    const row = database.get<{ record: Uint8Array }>(sql);
    if (row === undefined) throw new Error("no such key");
    return owned(row.record);
  };
  const lastResort = options.isLastResort === true ? 1 : 0;
  const signed = SignedPreKeyRecord.deserialize(blob("SELECT record FROM signal_signed_pre_keys WHERE own = 'aci'"));
  const preKey = PreKeyRecord.deserialize(
    blob("SELECT record FROM signal_pre_keys WHERE own = 'aci' ORDER BY key_id DESC"),
  );
  const kyber = KyberPreKeyRecord.deserialize(
    blob(
      `SELECT record FROM signal_kyber_pre_keys WHERE own = 'aci' AND is_last_resort = ${lastResort} ORDER BY key_id DESC`,
    ),
  );
  const own = blob("SELECT identity AS record FROM signal_own WHERE own = 'aci'");
  return PreKeyBundle.new(
    1,
    deviceId,
    lastResort === 1 ? null : preKey.id(),
    lastResort === 1 ? null : preKey.publicKey(),
    signed.id(),
    signed.publicKey(),
    signed.signature(),
    PrivateKey.deserialize(own).getPublicKey(),
    options.kyberId ?? kyber.id(),
    kyber.publicKey(),
    kyber.signature(),
  );
}

export type Peer = {
  encrypt(plain: Uint8Array, isPadded?: boolean): Promise<{ type: Envelope_Type; bytes: Uint8Array }>;
};

/** A device that has begun a session with us by that bundle. */
export async function openPeer(aci: string, identity: PrivateKey, to: string, bundle: PreKeyBundle): Promise<Peer> {
  const [sessions, identities] = [new Sessions(), new Identities(identity)];
  const us = ProtocolAddress.new(to, bundle.deviceId());
  const me = ProtocolAddress.new(aci, 1);
  await processPreKeyBundle(bundle, us, me, sessions, identities);
  return {
    async encrypt(plain, isPadded = true) {
      const message = await signalEncrypt(isPadded ? pad(plain) : owned(plain), us, me, sessions, identities);
      const isFirst = message.type() === 3;
      return {
        type: isFirst ? Envelope_Type.PREKEY_MESSAGE : Envelope_Type.DOUBLE_RATCHET,
        bytes: message.serialize(),
      };
    },
  };
}
