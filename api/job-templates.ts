/** AWS's managed job templates: the documents that the AWS IoT Device Client and its like execute. */
export const templateNames = [
  'AWS-Reboot',
  'AWS-Download-File',
  'AWS-Run-Command',
  'AWS-Install-Application',
  'AWS-Remove-Application',
  'AWS-Start-Application',
  'AWS-Stop-Application',
  'AWS-Restart-Application',
] as const;

export type TemplateName = (typeof templateNames)[number];
export type TemplateParameters = Record<string, string>;

type Template = { required: string[]; optional: string[]; fill(parameters: TemplateParameters): object };

const templates: Record<TemplateName, Template> = {
  'AWS-Reboot': handler('Reboot', 'reboot.sh', []),
  'AWS-Download-File': handler('Download-File', 'download-file.sh', ['downloadUrl', 'filePath']),
  'AWS-Run-Command': command('Run-Command'),
  'AWS-Install-Application': handler('Install-Application', 'install-packages.sh', ['packages']),
  'AWS-Remove-Application': handler('Remove-Application', 'remove-packages.sh', ['packages']),
  'AWS-Start-Application': handler('Start-Application', 'start-services.sh', ['services']),
  'AWS-Stop-Application': handler('Stop-Application', 'stop-services.sh', ['services']),
  'AWS-Restart-Application': handler('Restart-Application', 'restart-services.sh', ['services']),
};

/** A program on the device, with the required parameters as its arguments. */
function handler(name: string, program: string, required: string[]): Template {
  return {
    required,
    optional: ['runAsUser', 'pathToHandler'],
    fill: (parameters) => {
      const args = required.length > 0 ? { args: required.map((parameter) => parameters[parameter]) } : {};
      const input = { handler: program, ...args, path: parameters['pathToHandler'] ?? '' };
      return single({ name, type: 'runHandler', input, runAsUser: parameters['runAsUser'] ?? '' });
    },
  };
}

/** A command line, its words separated by commas. */
function command(name: string): Template {
  return {
    required: ['command'],
    optional: ['runAsUser'],
    fill: (parameters) => {
      const input = { command: parameters['command'] };
      return single({ name, type: 'runCommand', input, runAsUser: parameters['runAsUser'] ?? '' });
    },
  };
}

const single = (action: object) => ({ version: '1.0', steps: [{ action }] });

/** What is wrong with parameters, by name. */
export function judgeParameters(
  name: TemplateName,
  parameters: TemplateParameters,
): { parameter: string; detail: string }[] {
  const { required, optional } = templates[name];
  const missing = required.filter((parameter) => !Object.hasOwn(parameters, parameter) || parameters[parameter] === '');
  const unknown = Object.keys(parameters).filter((parameter) => ![...required, ...optional].includes(parameter));
  return [
    ...missing.map((parameter) => ({ parameter, detail: `${name} needs it` })),
    ...unknown.map((parameter) => ({ parameter, detail: `${name} does not know it` })),
  ];
}

/** The document with judged parameters in their places. An optional one that is left out is an empty text. */
export const fillTemplate = (name: TemplateName, parameters: TemplateParameters) => templates[name].fill(parameters);
