-- Who has all places taken waits a moment for one before it is refused.
--
-- HAProxy frees a request's place when it is done with it: after the client has got the answer's last byte, and after the
-- ledger has got its line (stream_free in src/stream.c, 2.4.0 and 2.6.0). A client that has its answer and asks again at
-- once can be quicker.
local PAUSES_MS = {1, 2, 4, 8, 16, 32, 64, 128}

core.register_action("wait_for_place", {"http-req"}, function(txn)
    local who, places = txn:get_var("txn.who"), txn:get_var("txn.at_once")
    for _, pause in ipairs(PAUSES_MS) do
        core.msleep(pause)
        if txn.c:table_conn_cur(who, "per_minute") < places then
            return
        end
    end
end)
