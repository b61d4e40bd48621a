package daemon

import (
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
	"github.com/vhost-user-vsock/vhost-user-vsock/trace"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

// queueNames are the rings in the order of virtio v1.4 §5.10.2.
var queueNames = [queueCount]string{"rx", "tx", "event"}

// families are the metrics of a VM.
var families = []family{
	// The VM as a whole.
	gauge("vm_up", "1 while the VM is served, 0 once it has failed.",
		func(s *vmStats) *stats.Gauge { return &s.up }),
	gauge("vm_stuck", "1 while the VM's event loop does not answer; it is asked every 5 seconds.",
		func(s *vmStats) *stats.Gauge { return &s.stuck }),
	counter("vm_failures_total", "Times the VM ended by an error or could not start.",
		func(s *vmStats) *stats.Counter { return &s.failures }),
	gauge("vm_waiting_options", "Changed options of the VM that apply when its frontend has left.",
		func(s *vmStats) *stats.Gauge { return &s.waiting }),

	// Connections.
	gauges("connections", "Connections by state and by the side that opened them.",
		func(s *vmStats, put put) {
			for phase, state := range muxer.Phases {
				for direction, side := range muxer.Directions {
					put(float64(s.muxer.Connections[phase][direction].Load()), state, side+"_initiated")
				}
			}
		}, "state", "direction"),
	gauge("connections_limit", "Connections that may be open at once.",
		func(s *vmStats) *stats.Gauge { return &s.maxConnections }),
	gauge("clients", "Host programs whose CONNECT has not been passed on to the guest yet.",
		func(s *vmStats) *stats.Gauge { return &s.muxer.Clients }),
	gauge("dials", "Requests of the guest that wait for room in a host program's backlog.",
		func(s *vmStats) *stats.Gauge { return &s.muxer.Dials }),
	gauge("guest_waits", "Host programs that wait for the guest to accept their CONNECT, under --wait-for-guest.",
		func(s *vmStats) *stats.Gauge { return &s.muxer.GuestWaits }),
	counter("guest_retries_total", "Times a guest was asked again that had not accepted a waiting CONNECT.",
		func(s *vmStats) *stats.Counter { return &s.muxer.GuestRetries }),
	gauge("lingering_sockets", "Host sockets whose connection is over while bytes for them are left.",
		func(s *vmStats) *stats.Gauge { return &s.muxer.Tails }),
	counters("handshakes_total", "CONNECT lines of host programs by how they ended.",
		func(s *vmStats, put put) { putAll(put, s.muxer.Handshakes[:], muxer.Handshakes[:]) }, "result"),
	counters("resets_total", "RST packets to the guest by reason.",
		func(s *vmStats, put put) { putAll(put, s.muxer.Resets[:], muxer.ResetReasons[:]) }, "reason"),

	histograms("request_duration_seconds", "Time from a REQUEST to its answer, by the side that asked and by the answer.",
		func(s *vmStats, put putHistogram) {
			for direction, side := range muxer.Directions {
				for answer, name := range muxer.Answers {
					put(&s.muxer.Answered[direction][answer], side+"_initiated", name)
				}
			}
		}, "direction", "answer"),

	gauges("guest_cid", "The guest's CID: the one in force, and one that waits for the driver to start anew, else 0.",
		func(s *vmStats, put put) {
			put(float64(s.muxer.GuestCID.Load()), "active")
			put(float64(s.muxer.PendingCID.Load()), "pending")
		}, "state"),
	counter("transport_resets_total", "Events that told a guest to drop its connections.",
		func(s *vmStats) *stats.Counter { return &s.muxer.TransportResets }),

	// Packets and bytes: rx is towards the guest, tx comes from it.
	counters("packets_total", "Packets by direction (rx: to the guest, tx: from it) and operation.",
		func(s *vmStats, put put) {
			for op, name := range muxer.Ops {
				put(float64(s.muxer.RxPackets[op].Load()), "rx", name)
				put(float64(s.muxer.TxPackets[op].Load()), "tx", name)
			}
		}, "direction", "op"),
	counters("payload_bytes_total", "Payload by direction (rx: to the guest, tx: from it).",
		func(s *vmStats, put put) {
			put(float64(s.muxer.RxBytes.Load()), "rx")
			put(float64(s.muxer.TxBytes.Load()), "tx")
		}, "direction"),
	counters("payload_messages_total", "Messages of SEQPACKET connections by direction (rx: to the guest, tx: from it).",
		func(s *vmStats, put put) {
			put(float64(s.muxer.RxMessages.Load()), "rx")
			put(float64(s.muxer.TxMessages.Load()), "tx")
		}, "direction"),
	counter("discarded_bytes_total", "Payload from the guest that no host program could take any more.",
		func(s *vmStats) *stats.Counter { return &s.muxer.Discarded }),
	counters("dropped_packets_total", "Packets from the guest that went nowhere, by reason.",
		func(s *vmStats, put put) { putAll(put, s.muxer.Drops[:], muxer.Drops[:]) }, "reason"),
	counters("trace_packets_total", "Packets under --trace-packets by what became of them: recorded in the file, or not for an overload or a full file.",
		func(s *vmStats, put put) { putAll(put, s.trace.Packets[:], trace.Results[:]) }, "result"),
	gauge("buffered_bytes", "Memory that holds payload for host programs that do not read.",
		func(s *vmStats) *stats.Gauge { return &s.muxer.Buffered }),
	gauge("buffered_begun_bytes", "Payload of messages whose end has not come from the guest.",
		func(s *vmStats) *stats.Gauge { return &s.muxer.BufferedBegun }),
	gauge("buffered_limit_bytes", "Memory that payload for host programs may take.",
		func(s *vmStats) *stats.Gauge { return &s.maxBuffered }),

	// Waits: the times that one began, and how long they lasted, by now.
	counter("credit_stalls_total", "Times a host program's bytes began to wait for buffer space in the guest.",
		func(s *vmStats) *stats.Counter { return &s.muxer.CreditStalls }),
	counter("packet_stalls_total", "Times a host program's bytes began to wait for the guest to read packets.",
		func(s *vmStats) *stats.Counter { return &s.muxer.PacketStalls }),
	counter("host_stalls_total", "Times a host program began to read slower than its guest sends.",
		func(s *vmStats) *stats.Counter { return &s.muxer.HostStalls }),
	counter("accept_stalls_total", "Times new host programs began to wait for a free descriptor.",
		func(s *vmStats) *stats.Counter { return &s.muxer.AcceptStalls }),
	counters("memory_stalls_total", "Times the kernel had no memory for what was to be sent or received, by the socket's other end; it is tried again.",
		func(s *vmStats, put put) {
			put(float64(s.muxer.MemoryStalls.Load()), "host_program")
			put(float64(s.vhostuser.MemoryStalls.Load()), "frontend")
		}, "peer"),
	counters("ring_stalls_total", "Times a ring began to wait, by reason.",
		func(s *vmStats, put put) {
			put(float64(s.muxer.RxRingStalls.Load()), queueNames[0], "no_buffers")
			put(float64(s.muxer.ReplyStalls.Load()), queueNames[1], "replies")
			put(float64(s.muxer.BufferStalls.Load()), queueNames[1], "buffered_limit")
		}, "queue", "reason"),

	counters("connection_stall_seconds_total", "Time for which connections have waited, added up over all of them: for the guest's credit, or for a host program to read.",
		func(s *vmStats, put put) {
			put(s.muxer.CreditStalled.Seconds(clock), "credit")
			put(s.muxer.HostStalled.Seconds(clock), "host_socket")
		}, "reason"),
	counters("ring_stall_seconds_total", "Time for which a ring has waited, by reason.",
		func(s *vmStats, put put) {
			put(s.muxer.RxRingStalled.Seconds(clock), queueNames[0], "no_buffers")
			put(s.muxer.ReplyStalled.Seconds(clock), queueNames[1], "replies")
			put(s.muxer.BufferStalled.Seconds(clock), queueNames[1], "buffered_limit")
		}, "queue", "reason"),

	// The muxer's own queues: connections with something for the guest, and
	// deadlines.
	gauge("rxq_depth", "Entries in the queue of packets and connections that are due to the guest.",
		func(s *vmStats) *stats.Gauge { return &s.muxer.RxQueueDepth }),
	counter("rxq_resyncs_total", "Times that queue was rebuilt from the connection table.",
		func(s *vmStats) *stats.Counter { return &s.muxer.RxResyncs }),
	gauge("killq_depth", "Entries in the queue of deadlines.",
		func(s *vmStats) *stats.Gauge { return &s.muxer.KillQueueDepth }),
	counter("killq_resyncs_total", "Times that queue was rebuilt from the connection table.",
		func(s *vmStats) *stats.Counter { return &s.muxer.KillResyncs }),

	histograms("loop_turn_seconds", "Time that the VM's event loop took for one turn, for which all else of the VM waited.",
		func(s *vmStats, put putHistogram) { put(&s.turns) }),
	counters("loop_poll_seconds_total", "Time for which the VM's event loop has looked for events in vain instead of sleeping, as --poll-us allows.",
		func(s *vmStats, put put) { put(time.Duration(s.polling.Load()).Seconds()) }),

	// Rings.
	counters("notifications_total", "Batches of used buffers by whether the driver was interrupted for them.",
		func(s *vmStats, put put) {
			eachQueue(s, func(q *vhostuser.QueueStats, queue string) {
				put(float64(q.Notified.Load()), queue, "sent")
				put(float64(q.Suppressed.Load()), queue, "suppressed")
			})
		}, "queue", "result"),
	counters("kicks_total", "Notifications from the driver.",
		func(s *vmStats, put put) {
			eachQueue(s, func(q *vhostuser.QueueStats, queue string) { put(float64(q.Kicks.Load()), queue) })
		}, "queue"),
	counters("chains_total", "Descriptor chains given back to the driver.",
		func(s *vmStats, put put) {
			eachQueue(s, func(q *vhostuser.QueueStats, queue string) { put(float64(q.Chains.Load()), queue) })
		}, "queue"),
	counters("bad_chains_total", "Descriptor chains given back with length 0 because they were malformed.",
		func(s *vmStats, put put) {
			eachQueue(s, func(q *vhostuser.QueueStats, queue string) { put(float64(q.BadChains.Load()), queue) })
		}, "queue"),
	counters("ring_starts_total", "Times a ring was started.",
		func(s *vmStats, put put) {
			eachQueue(s, func(q *vhostuser.QueueStats, queue string) { put(float64(q.Starts.Load()), queue) })
		}, "queue"),
	counters("ring_errors_total", "Rings that broke and were stopped, by reason.",
		func(s *vmStats, put put) {
			eachQueue(s, func(q *vhostuser.QueueStats, queue string) {
				for fault, reason := range vhostuser.RingFaults {
					put(float64(q.Errors[fault].Load()), queue, reason)
				}
			})
		}, "queue", "reason"),

	// Frontends.
	gauge("frontend_attached", "1 while a frontend's session lasts, else 0.",
		func(s *vmStats) *stats.Gauge { return &s.vhostuser.Attached }),
	gauge("frontend_candidates", "Connections of frontends that wait to become the session.",
		func(s *vmStats) *stats.Gauge { return &s.vhostuser.Candidates }),
	counter("frontend_accepts_total", "Connections of frontends.",
		func(s *vmStats) *stats.Counter { return &s.vhostuser.Accepted }),
	counter("frontend_accept_errors_total", "Connections of frontends not accepted for want of descriptors or memory.",
		func(s *vmStats) *stats.Counter { return &s.vhostuser.AcceptErrors }),
	counters("frontend_candidates_dropped_total", "Connections of frontends that never became the session, by reason.",
		func(s *vmStats, put put) {
			put(float64(s.vhostuser.CandidatesEvicted.Load()), "evicted")
			put(float64(s.vhostuser.CandidatesRefused.Load()), "refused")
			put(float64(s.vhostuser.CandidatesGone.Load()), "gone")
		}, "reason"),
	counter("sessions_started_total", "Sessions that began.",
		func(s *vmStats) *stats.Counter { return &s.vhostuser.SessionsStarted }),
	counters("sessions_ended_total", "Sessions that ended, by reason.",
		func(s *vmStats, put put) { putAll(put, s.vhostuser.SessionsEnded[:], vhostuser.EndReasons[:]) }, "reason"),
	counter("messages_total", "vhost-user messages handled.",
		func(s *vmStats) *stats.Counter { return &s.vhostuser.Messages }),
	counter("malformed_messages_total", "vhost-user messages refused.",
		func(s *vmStats) *stats.Counter { return &s.vhostuser.Malformed }),
	counter("backend_requests_total", "vhost-user messages to the frontend that it did not ask for.",
		func(s *vmStats) *stats.Counter { return &s.vhostuser.BackendRequests }),
	counter("dirty_log_lost_pages_total", "Pages written that the frontend's dirty log has no bit for.",
		func(s *vmStats) *stats.Counter { return &s.vhostuser.LogPagesLost }),
	counters("device_state_transfers_total", "Transfers of the device's state, by outcome.",
		func(s *vmStats, put put) {
			put(float64(s.vhostuser.StatesSaved.Load()), "saved")
			put(float64(s.vhostuser.StatesLoaded.Load()), "loaded")
			put(float64(s.vhostuser.StateErrors.Load()), "failed")
		}, "outcome"),
	counter("device_resets_total", "Times the driver began anew, which ends all connections.",
		func(s *vmStats) *stats.Counter { return &s.vhostuser.Resets }),
}
