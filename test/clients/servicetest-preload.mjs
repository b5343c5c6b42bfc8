/**
 * Points a service test of the AWS IoT Device SDK at another server than AWS: the programs know neither a port nor an
 * authority. It is loaded before the program, whose own text stays as it was shipped.
 */
import { createRequire } from 'node:module';

// The programs are written for CommonJS, and run here as the modules that their imports make them.
globalThis.require = createRequire(process.argv[1] ?? import.meta.url);
const { iot } = globalThis.require('aws-iot-device-sdk-v2');
const port = Number(process.env['SERVICETEST_PORT']);
const ca = process.env['SERVICETEST_CA_FILE'] ?? '';

const { newDirectMqttBuilderWithMtlsFromPath } = iot.AwsIotMqtt5ClientConfigBuilder;
iot.AwsIotMqtt5ClientConfigBuilder.newDirectMqttBuilderWithMtlsFromPath = (...args) =>
  newDirectMqttBuilderWithMtlsFromPath(...args)
    .withPort(port)
    .withCertificateAuthorityFromPath(undefined, ca);

const { new_mtls_builder_from_path } = iot.AwsIotMqttConnectionConfigBuilder;
iot.AwsIotMqttConnectionConfigBuilder.new_mtls_builder_from_path = (...args) =>
  new_mtls_builder_from_path(...args)
    .with_port(port)
    .with_certificate_authority_from_path(undefined, ca);
