-- Who has all places taken (a consumer; a person in the chat) waits a moment for one before it is refused.
--
-- HAProxy frees a request's place when it is done with it: after the client has got the answer's last byte, and after the
-- ledger has got its line (stream_free in src/stream.c, 2.4.0 and 2.6.0). A client that has its answer and asks again at
-- once can be quicker.
local PAUSES_MS = {1, 2, 4, 8, 16, 32, 64, 128}

-- Arguments: the variable of who asks, the table where its requests are counted, the variable of how many it may have.
core.register_action("wait_for_place", {"http-req"}, function(txn, who, counted, allowed)
    local key, places = txn:get_var(who), txn:get_var(allowed)
    for _, pause in ipairs(PAUSES_MS) do
        core.msleep(pause)
        if txn.c:table_conn_cur(key, counted) < places then
            return
        end
    end
end, 3)
