import { and, eq, like } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { writeBlock } from '../../db/blocks.ts';
import { claims, enrolments, type TemplateDefinition } from '../../db/enrolment-schema.ts';
import { audit, certificates, devices, events } from '../../db/schema.ts';
import type { Permit } from '../../doors/entrance.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { makeApi, type Ask } from '../support/api.ts';
import { eventually } from '../support/eventually.ts';
import { openRig, type Rig } from './rig.ts';

let rig: Rig;
let ask: Ask;
beforeAll(async () => {
  rig = await openRig();
  ({ ask } = await makeApi(rig.db, { authority: rig.fleet.authority, wire: rig.wire }));
}, 120_000);
afterAll(() => rig[Symbol.asyncDispose]());

/** A device that waits for an operator. */
async function wait(part: Partial<TemplateDefinition> = { approval: true }) {
  const { template } = await rig.makeTemplate(part);
  const { permit } = await rig.makeToken(template, { usesMax: 2 });
  const key = makeKeyPair();
  const again = () => rig.enrol(permit, '1', key);
  expect(await rig.refused(again())).toBe('WaitingForApproval');
  return { template, permit, key, again, id: (await rig.enrolmentOf(permit))?.id ?? '' };
}
const judge = (id: string, verb: string, body?: object) => ask('POST', `/v1/enrolments/${id}/${verb}`, body);
const stateOf = async (permit: Permit) => (await rig.enrolmentOf(permit))?.state;
const usesOf = async ({ claimId }: Permit) =>
  (await rig.db.select().from(claims).where(eq(claims.id, claimId)))[0]?.uses;
const kindsOf = async (id: string) => {
  const rows = await rig.db
    .select()
    .from(events)
    .where(eq(events.subject, `enrolment/${id}`))
    .orderBy(events.id);
  return rows.map(({ kind }) => kind);
};
const auditOf = async (id: string) => {
  const rows = await rig.db
    .select()
    .from(audit)
    .where(eq(audit.subject, `enrolment/${id}`))
    .orderBy(audit.id);
  return rows.map(({ action }) => action);
};

describe('a device that waits for an operator', () => {
  test('has no certificate and no row, keeps its one enrolment, and gets its answer once it is approved', async () => {
    const { template, permit, again, id } = await wait();
    expect(await rig.db.$count(devices, like(devices.name, `${template}%`))).toBe(0);
    expect(await rig.refused(again())).toBe('WaitingForApproval');
    expect(await ask('GET', `/v1/enrolments/${id}`)).toMatchObject({
      status: 200,
      body: { state: 'WAITING_FOR_APPROVAL', waitsFor: 'approval', device: `${template}-1`, certificateId: null },
    });
    expect((await judge(id, 'approve')).status).toBe(202);
    await eventually(async () => expect(await again()).toMatchObject({ deviceName: `${template}-1` }));
    expect(await rig.db.$count(enrolments, eq(enrolments.claimId, permit.claimId))).toBe(1);
    expect((await judge(id, 'approve')).status).toBe(409);
    expect(await kindsOf(id)).toEqual(['enrolment.waiting', 'enrolment.approved']);
    expect(await auditOf(id)).toEqual(['enrolment.waiting', 'enrolment.approved']);
  });

  test('is told no once it is denied, for as long as it would have waited, and its claim has the slot back', async () => {
    const { permit, again, id } = await wait();
    expect(await usesOf(permit)).toBe(1);
    expect((await judge(id, 'deny', { reason: 'not ours' })).status).toBe(200);
    expect(await rig.refused(again())).toBe('EnrolmentDenied');
    expect(await usesOf(permit)).toBe(0);
    expect((await judge(id, 'deny')).status).toBe(409);
    expect(await kindsOf(id)).toEqual(['enrolment.waiting', 'enrolment.denied']);
  });

  test('that nobody judges in time is let go', async () => {
    const { permit, id } = await wait();
    await rig.db
      .update(enrolments)
      .set({ closesAt: new Date(0) })
      .where(eq(enrolments.id, id));
    expect((await judge(id, 'approve')).status).toBe(409);
    const row = await rig.enrolmentOf(permit);
    const lifecycle = rig.temporal.client.workflow.getHandle(`provision-device/${row?.key}`);
    // Woken, it finds what its timer would have found.
    await lifecycle.signal('enrolmentDecided', {});
    await eventually(async () => expect(await stateOf(permit)).toBe('LAPSED'));
    expect(await usesOf(permit)).toBe(0);
  });

  test('is denied all the same when it was blocked by the time of its approval', async () => {
    const { template, permit, id } = await wait();
    await rig.db.transaction((tx) => writeBlock(tx, 'system/test', { name: `${template}-1`, keys: [] }));
    await judge(id, 'approve');
    await eventually(async () => expect(await stateOf(permit)).toBe('DENIED'));
    expect(await rig.db.$count(devices, like(devices.name, `${template}%`))).toBe(0);
  });

  test('gets what it asked for in two steps as well: the same certificate, and then its name', async () => {
    const { template } = await rig.makeTemplate({ approval: true });
    const { permit } = await rig.makeToken(template);
    const csr = makeCsr(makeKeyPair());
    const { certificateId } = await rig.entrance.certify(permit, csr);
    const enrolment = async () => {
      const row = await rig.enrolmentOf(permit);
      if (!row) throw new Error('there is no enrolment');
      return row;
    };
    const register = async () => rig.entrance.register(await enrolment(), { template, parameters: { serial: '1' } });
    expect(await rig.refused(register())).toBe('WaitingForApproval');
    expect((await rig.entrance.certify(permit, csr)).certificateId).toBe(certificateId);
    await judge((await enrolment()).id, 'approve');
    await eventually(async () => expect(await register()).toMatchObject({ deviceName: `${template}-1` }));
    expect((await enrolment()).certificateId).toBe(certificateId);
  });

  test('is judged by nobody who has no key, and no other enrolment is', async () => {
    expect((await judge(crypto.randomUUID(), 'approve')).status).toBe(404);
    expect((await judge('x', 'deny')).status).toBe(404);
    const { id } = await wait();
    expect((await judge(id, 'deny', { reason: 5 })).status).toBe(422);
    expect((await judge(id, 'approve', { all: true })).status).toBe(422);
  });
});

test('a second device of the same name raises an alarm, waits, and replaces the first when it is approved', async () => {
  const { template } = await rig.makeTemplate({ existing: 'approve' });
  const { permit } = await rig.makeToken(template);
  const first = await rig.enrol(permit, '1');
  const key = makeKeyPair();
  expect(await rig.refused(rig.enrol(permit, '1', key))).toBe('WaitingForApproval');
  const id = (await rig.enrolmentOf(permit))?.id ?? '';
  expect(await kindsOf(id)).toEqual(['enrolment.waiting', 'device.clone-suspected']);
  const stateOfFirst = async () =>
    (
      await rig.db
        .select()
        .from(certificates)
        .where(and(eq(certificates.id, first.certificateId)))
    )[0]?.state;
  expect(await stateOfFirst()).toBe('PENDING_ACTIVATION');
  await judge(id, 'approve');
  await eventually(async () => expect(await rig.refused(rig.enrol(permit, '1', key))).toBe('accepted'));
  expect(await stateOfFirst()).toBe('REVOKED');
});

test('an approval holds although the lifecycle is gone, and is carried out when it is started again from its row', async () => {
  const { template, permit, again, id } = await wait();
  const row = await rig.enrolmentOf(permit);
  await rig.temporal.client.workflow.getHandle(`provision-device/${row?.key}`).terminate();
  expect((await judge(id, 'approve')).status).toBe(202);
  expect((await rig.enrolmentOf(permit))?.approvedAt).not.toBeNull();
  await rig.temporal.client.workflow.start('provisionDevice', {
    workflowId: `provision-device/${row?.key}`,
    taskQueue: rig.temporal.taskQueue,
    args: [
      {
        claimId: permit.claimId,
        publicKey: Buffer.from(row?.publicKey ?? []).toString('base64'),
        registration: row?.asked,
      },
    ],
  });
  await eventually(async () => expect(await again()).toMatchObject({ deviceName: `${template}-1` }));
});
