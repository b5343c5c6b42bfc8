import { mqtt, type iotshadow } from 'aws-iot-device-sdk-v2';
import type { AwsClient } from './aws-device.ts';

export type Reported = Record<string, { version: string } | null>;
type Shadow = iotshadow.model.UpdateShadowResponse & iotshadow.model.GetShadowResponse;

/** The shadow `$package` as a program sees it. A rejected answer is thrown as it came: `code`, `message`, … */
export type Shadows = {
  report(thingName: string, reported: Reported, version?: number): Promise<Shadow>;
  read(thingName: string): Promise<Shadow>;
};

const qos = mqtt.QoS.AtLeastOnce;
const shadowName = '$package';
type Answered<Response> = (error?: Error, response?: Response) => void;
type Subscribe<Response> = (answered: Answered<Response>) => Promise<mqtt.MqttSubscribeRequest>;

/** The V1 client: subscribes to both answers, publishes, and is called back. */
export function shadowsV1(client: AwsClient): Shadows {
  const shadow = client.shadowV1();

  async function ask(
    toAccepted: Subscribe<Shadow>,
    toRejected: Subscribe<iotshadow.model.ErrorResponse>,
    publish: () => Promise<unknown>,
  ): Promise<Shadow> {
    const { promise, resolve, reject } = Promise.withResolvers<Shadow>();
    const granted = await Promise.all([
      toAccepted((error, response) => (response ? resolve(response) : reject(error))),
      toRejected((error, response) => reject(response ?? error)),
    ]);
    for (const { error_code } of granted) if (error_code) throw new Error(`not granted: ${error_code}`);
    const [response] = await Promise.all([promise, publish()]);
    return response;
  }

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
  const orModeledError = (error: unknown) => {
    throw (error as { modeledError?: unknown }).modeledError ?? error;
  };
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
