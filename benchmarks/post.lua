-- wrk: CloudEvents with ids of their own, `BATCH` in a request; one in a hundred is over the policies' threshold.
local batch = tonumber(os.getenv("BATCH") or "1")
local run = os.getenv("RUN") or "0"
local counter, thread_number = 0, 0

function setup(thread)
  thread:set("number", thread_number)
  thread_number = thread_number + 1
end

local function event()
  counter = counter + 1
  local share = counter % 100 == 7 and 0.9 or 0.1
  return string.format(
    '{"specversion":"1.0","id":"%s-%d-%d","source":"/stream/drift","type":"drift.k%d","subject":"flight-delay",' ..
    '"time":"2026-11-21T12:00:00.5Z","data":{"share":%s,"column":"age","method":"ks","value":0.25}}',
    run, number, counter, counter % 20, share)
end

function request()
  if batch == 1 then
    wrk.headers["Content-Type"] = "application/cloudevents+json"
    return wrk.format("POST", nil, nil, event())
  end
  local events = {}
  for i = 1, batch do events[i] = event() end
  wrk.headers["Content-Type"] = "application/cloudevents-batch+json"
  return wrk.format("POST", nil, nil, "[" .. table.concat(events, ",") .. "]")
end

function done(summary, latency)
  io.write(string.format("REPORT %d %d %d %d %d\n", summary.requests, summary.duration,
    summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.connect + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
