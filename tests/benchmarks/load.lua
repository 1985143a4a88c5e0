-- Sends the bodies of the file BODIES (a line each) in turn; ends with one line of JSON.
local bodies = {}
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
local requests, turn = {}, 0

init = function()
  for i, body in ipairs(bodies) do
    requests[i] = wrk.format("POST", nil, { ["content-type"] = "application/json" }, body)
  end
end

request = function()
  turn = turn % #requests + 1
  return requests[turn]
end

done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
