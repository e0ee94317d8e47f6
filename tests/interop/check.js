// One line for each thing checked, in the form that run.py counts.
'use strict';

/** Prints whether `claim` holds, and if not, what was found instead. */
exports.check = (claim, holds, found) => {
  console.log(holds ? `ok      ${claim}` : `FAILED  ${claim}: ${JSON.stringify(found)}`);
};
