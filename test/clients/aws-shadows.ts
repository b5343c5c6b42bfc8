import type { iotshadow } from 'aws-iot-device-sdk-v2';
import { ask, orModeledError, qos } from './aws-ask.ts';
import type { AwsClient } from './aws-device.ts';

export type Reported = Record<string, { version: string } | null>;
type Shadow = iotshadow.model.UpdateShadowResponse & iotshadow.model.GetShadowResponse;

/** The shadow `$package` as a program sees it. A rejected answer is thrown as it came: `code`, `message`, … */
export type Shadows = {
  report(thingName: string, reported: Reported, version?: number): Promise<Shadow>;
  read(thingName: string): Promise<Shadow>;
};

const shadowName = '$package';

/** The V1 client: subscribes to both answers, publishes, and is called back. */
export function shadowsV1(client: AwsClient): Shadows {
  const shadow = client.shadowV1();

  return {
    report: (thingName, reported, version) =>
      ask(
        (answered) => shadow.subscribeToUpdateNamedShadowAccepted({ thingName, shadowName }, qos, answered),
        (answered) => shadow.subscribeToUpdateNamedShadowRejected({ thingName, shadowName }, qos, answered),
        () => shadow.publishUpdateNamedShadow({ thingName, shadowName, ...update(reported, version) }, qos),
      ),
    read: (thingName) =>
      ask(
        (answered) => shadow.subscribeToGetNamedShadowAccepted({ thingName, shadowName }, qos, answered),
        (answered) => shadow.subscribeToGetNamedShadowRejected({ thingName, shadowName }, qos, answered),
        () => shadow.publishGetNamedShadow({ thingName, shadowName }, qos),
      ),
  };
}

/** The V2 client: one promise per request. */
export function shadowsV2(client: AwsClient): Shadows {
  const shadow = client.shadowV2();
  return {
    report: (thingName, reported, version) =>
      shadow.updateNamedShadow({ thingName, shadowName, ...update(reported, version) }).catch(orModeledError),
    read: (thingName) => shadow.getNamedShadow({ thingName, shadowName }).catch(orModeledError),
  };
}

const update = (reported: Reported, version?: number) => ({
  state: { reported },
  ...(version !== undefined && { version }),
});
