import { mqtt } from 'aws-iot-device-sdk-v2';

export const qos = mqtt.QoS.AtLeastOnce;

type Subscribe<Response> = (
  answered: (error?: Error, response?: Response) => void,
) => Promise<mqtt.MqttSubscribeRequest>;

/** As a program of the V1 clients asks: subscribes to both answers, publishes, and is called back. A rejection is thrown as it came. */
export async function ask<Response>(
  toAccepted: Subscribe<Response>,
  toRejected: Subscribe<object>,
  publish: () => Promise<unknown>,
): Promise<Response> {
  const { promise, resolve, reject } = Promise.withResolvers<Response>();
  const granted = await Promise.all([
    toAccepted((error, response) => (response ? resolve(response) : reject(error))),
    toRejected((error, response) => reject(response ?? error)),
  ]);
  for (const { error_code } of granted) if (error_code) throw new Error(`not granted: ${error_code}`);
  const [response] = await Promise.all([promise, publish()]);
  return response;
}

/** The V2 clients wrap a rejection: this throws it as it came. */
export const orModeledError = (error: unknown): never => {
  throw (error as { modeledError?: unknown }).modeledError ?? error;
};
