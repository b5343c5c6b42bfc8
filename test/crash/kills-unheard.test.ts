import { describeKills } from './kills.ts';

describeKills('none');
