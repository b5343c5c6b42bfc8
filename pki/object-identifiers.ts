/** Object identifiers as the hexadecimal of their encoding, so that comparing bytes is all the reading there is. */
export const oids = {
  /** 2.5.4.3 */
  commonName: '550403',
  /** 2.5.4.5 */
  serialNumber: '550405',
  /** 2.5.4.10 */
  organization: '55040a',
  /** 2.5.4.11 */
  organizationalUnit: '55040b',
  /** 1.2.840.113549.1.9.14, RFC 2985 5.4.2 */
  extensionRequest: '2a864886f70d01090e',
  /** 1.3.6.1.4.1.311.2.1.14: the same attribute under the number Microsoft gave it; OpenSSL reads both. */
  microsoftExtensionRequest: '2b06010401823702010e',
  /** 2.5.29.14 */
  subjectKeyIdentifier: '551d0e',
  /** 2.5.29.15 */
  keyUsage: '551d0f',
  /** 2.5.29.17 */
  subjectAlternativeName: '551d11',
  /** 2.5.29.19 */
  basicConstraints: '551d13',
  /** 2.5.29.20 */
  crlNumber: '551d14',
  /** 2.5.29.21 */
  reasonCode: '551d15',
  /** 2.5.29.28 */
  issuingDistributionPoint: '551d1c',
  /** 2.5.29.37 */
  extendedKeyUsage: '551d25',
  /** 2.5.29.37.0 */
  anyExtendedKeyUsage: '551d2500',
  /** 1.3.6.1.5.5.7.3.1 */
  serverAuth: '2b06010505070301',
  /** 1.2.840.10045.2.1 */
  ecPublicKey: '2a8648ce3d0201',
  /** 1.2.840.113549.1.1.1 */
  rsaEncryption: '2a864886f70d010101',
  /** 1.2.840.10045.4.3.2 */
  ecdsaWithSha256: '2a8648ce3d040302',
  /** 1.2.840.10045.4.3.3 */
  ecdsaWithSha384: '2a8648ce3d040303',
  /** 1.2.840.10045.4.3.4 */
  ecdsaWithSha512: '2a8648ce3d040304',
  /** 1.2.840.10045.3.1.7 */
  prime256v1: '2a8648ce3d030107',
  /** 1.3.132.0.34 */
  secp384r1: '2b81040022',
  /** 1.2.840.113549.1.7.1, RFC 2315 14 */
  data: '2a864886f70d010701',
  /** 1.2.840.113549.1.7.2 */
  signedData: '2a864886f70d010702',
  /** 1.2.840.113549.1.1.11 */
  sha256WithRsa: '2a864886f70d01010b',
  /** 1.2.840.113549.1.1.12 */
  sha384WithRsa: '2a864886f70d01010c',
  /** 1.2.840.113549.1.1.13 */
  sha512WithRsa: '2a864886f70d01010d',
} as const;
