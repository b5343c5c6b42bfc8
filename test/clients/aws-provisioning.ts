import type { iotidentity } from 'aws-iot-device-sdk-v2';
import { ask, orModeledError, qos } from './aws-ask.ts';
import type { AwsClient } from './aws-device.ts';

export type Issued = { certificateId: string; certificatePem: string; certificateOwnershipToken: string };
export type Registered = { thingName?: string; deviceConfiguration?: Record<string, string> };

/** Fleet provisioning as a program sees it. A rejected answer is thrown as it came: `statusCode`, `errorCode`, … */
export type Provisioning = {
  createFromCsr(csr: string): Promise<Issued>;
  createKeys(): Promise<Issued & { privateKey: string }>;
  register(templateName: string, token: string, parameters: Record<string, string>): Promise<Registered>;
};

/** The V1 client: subscribes to both answers, publishes, and is called back. */
export function provisionV1(client: AwsClient): Provisioning {
  const identity = client.identityV1();

  return {
    async createFromCsr(certificateSigningRequest) {
      const response = await ask<iotidentity.model.CreateCertificateFromCsrResponse>(
        (answered) => identity.subscribeToCreateCertificateFromCsrAccepted({}, qos, answered),
        (answered) => identity.subscribeToCreateCertificateFromCsrRejected({}, qos, answered),
        () => identity.publishCreateCertificateFromCsr({ certificateSigningRequest }, qos),
      );
      return response as Issued;
    },
    async createKeys() {
      const response = await ask<iotidentity.model.CreateKeysAndCertificateResponse>(
        (answered) => identity.subscribeToCreateKeysAndCertificateAccepted({}, qos, answered),
        (answered) => identity.subscribeToCreateKeysAndCertificateRejected({}, qos, answered),
        () => identity.publishCreateKeysAndCertificate({}, qos),
      );
      return response as Issued & { privateKey: string };
    },
    async register(templateName, certificateOwnershipToken, parameters) {
      return ask<iotidentity.model.RegisterThingResponse>(
        (answered) => identity.subscribeToRegisterThingAccepted({ templateName }, qos, answered),
        (answered) => identity.subscribeToRegisterThingRejected({ templateName }, qos, answered),
        () => identity.publishRegisterThing({ templateName, certificateOwnershipToken, parameters }, qos),
      );
    },
  };
}

/** The V2 client: one promise per request. */
export function provisionV2(client: AwsClient): Provisioning {
  const identity = client.identityV2();
  return {
    async createFromCsr(certificateSigningRequest) {
      const response = await identity.createCertificateFromCsr({ certificateSigningRequest }).catch(orModeledError);
      return response as Issued;
    },
    async createKeys() {
      const response = await identity.createKeysAndCertificate({}).catch(orModeledError);
      return response as Issued & { privateKey: string };
    },
    async register(templateName, certificateOwnershipToken, parameters) {
      return identity.registerThing({ templateName, certificateOwnershipToken, parameters }).catch(orModeledError);
    },
  };
}
