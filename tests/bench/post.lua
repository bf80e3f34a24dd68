-- wrk: every request is the same POST of the file BODY, with the headers of HEADERS (a line each); a line of JSON at the end.
local file = io.open(os.getenv("BODY"), "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
for name, value in string.gmatch(os.getenv("HEADERS") or "", "([^:\n]+): ([^\n]+)") do
  wrk.headers[name] = value
end

function done(summary, latency, requests)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  local form = '{"requests": %d, "failed": %d, "seconds": %f, "p50_ms": %f, "p95_ms": %f, "p99_ms": %f}\n'
  local at = function(part) return latency:percentile(part) / 1000 end
  io.write(string.format(form, summary.requests, failed, summary.duration / 1e6, at(50), at(95), at(99)))
end
