#!/bin/sh
# @platformatic/kafka 1.35.0 (npm): its default partitioner hashes keys with Kafka's murmur2, but takes the hash as an
# unsigned number (murmur2(key) >>> 0) where Java's clients drop the sign bit (& 0x7fffffff). Modulo the number of
# partitions that is the same where that number is a power of two, and another partition for keys with a negative hash
# elsewhere: right in a topic of 8 partitions, wrong for about half of all keys in one of 6. The package exports a
# compatibilityPartitioner, which agrees everywhere. Output seen:
#   8 partitions: 400 of 400 keys as Java
#   6 partitions: 184 of 400 keys as Java
# (A broker agrees: the records land where the function says.) Exits non-zero if that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --ignore-scripts --no-audit --no-fund @platformatic/kafka@1.35.0 >/dev/null 2>&1
cat > check.mjs <<'J'
import { compatibilityPartitioner, defaultPartitioner } from "@platformatic/kafka";
const agreeing = (width) =>
  [...Array(400).keys()].filter((n) => {
    const key = Buffer.from(`user-${n}`);
    return defaultPartitioner({}, key) % width === compatibilityPartitioner({}, key) % width;
  }).length;
const [eight, six] = [agreeing(8), agreeing(6)];
console.log(`8 partitions: ${eight} of 400 keys as Java`);
console.log(`6 partitions: ${six} of 400 keys as Java`);
process.exit(eight === 400 && six < 300 ? 0 : 1);
J
node check.mjs
