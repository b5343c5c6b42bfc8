/** It fits a topic level, a common name and a URL; and no program takes it for a formula. */
export const deviceNamePattern = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}$/;

export const attributeNamePattern = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/;
export const attributesMax = 50;
export const attributeValueLengthMax = 800;

/** Whether text is for a person or a device to read: what Postgres, a log and a certificate can all hold. */
// oxlint-disable-next-line no-control-regex -- control characters are what is looked for
export const isPlain = (text: string) => text.isWellFormed() && !/[\u0000-\u001f\u007f]/.test(text);
