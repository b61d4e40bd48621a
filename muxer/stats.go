package muxer

import "github.com/vhost-user-vsock/vhost-user-vsock/stats"

// Direction tells who opened a connection.
type Direction uint8

const (
	GuestInitiated Direction = iota
	HostInitiated
	directions
)

// Directions names every Direction, in order.
var Directions = [directions]string{"guest", "host"}

// Phase is where a connection stands, as the metrics show it.
type Phase uint8

const (
	PhaseConnecting  Phase = iota // waits for the guest's answer, or for a host socket
	PhaseEstablished              // carries bytes
	PhaseHalfClosed               // one side has said that it is done sending
	PhaseClosing                  // waits for the guest's RST
	phases
)

// Phases names every Phase, in order.
var Phases = [phases]string{"connecting", "established", "half_closed", "closing"}

// ResetReason says why a guest got an RST.
type ResetReason uint8

const (
	ResetRefused     ResetReason = iota // no host program listens on the port
	ResetDenied                         // the path is there but may not be connected to
	ResetBacklog                        // the host program's backlog stayed full
	ResetLimit                          // the VM is at its connections
	ResetShortage                       // the host is out of descriptors or memory
	ResetOwnSocket                      // the path is one of the daemon's own sockets
	ResetOrphan                         // a packet for a connection nobody knows
	ResetType                           // an unknown or unsupported socket type
	ResetCID                            // a destination nobody serves
	ResetDuplicate                      // a REQUEST on a connection that exists
	ResetViolation                      // credit exceeded, or a packet the state forbids
	ResetClosed                         // both directions have ended: the ordinary end
	ResetTimeout                        // the guest did not answer in time
	ResetClientGone                     // the host program left before the guest accepted
	ResetHost                           // the host socket failed
	ResetShutdown                       // the daemon ends
	ResetMessageSize                    // a message is larger than the guest or the host socket takes
	ResetLost                           // the connection ended behind the guest's back
	ResetDraining                       // the VM takes no new connections
	resetReasons
)

// ResetReasons names every ResetReason, in order.
var ResetReasons = [resetReasons]string{
	"refused", "denied", "backlog", "limit", "shortage", "own_socket", "orphan", "type", "cid",
	"duplicate", "violation", "closed", "timeout", "client_gone", "host_error", "shutdown", "message_size", "lost", "draining",
}

// Handshake is how a host program's CONNECT ended.
type Handshake uint8

const (
	HandshakeOK          Handshake = iota // OK was written
	HandshakeBadLine                      // not a CONNECT line
	HandshakeTimeout                      // no complete line in time
	HandshakeNoGuest                      // no driver is up
	HandshakeLimit                        // the VM is at its connections
	HandshakeRefused                      // the guest sent RST
	HandshakeSilent                       // the guest did not answer in time
	HandshakeGone                         // the program left first
	HandshakeNoSeqpacket                  // the guest's driver has no connections of messages
	HandshakeShortage                     // the host is out of memory
	HandshakeDraining                     // the VM takes no new connections
	handshakes
)

// Handshakes names every Handshake, in order.
var Handshakes = [handshakes]string{
	"ok", "bad_line", "timeout", "no_guest", "limit", "refused", "silent", "gone", "no_seqpacket", "shortage", "draining",
}

// Drop says why a packet of the guest went nowhere.
type Drop uint8

const (
	DropSourceCID Drop = iota // its source is not the guest
	DropShort                 // no whole header
	DropLength                // len and payload disagree, or len is above 64 KiB
	DropChain                 // the chain itself was bad
	DropOrphanRST             // an RST for a connection nobody knows
	drops
)

// Drops names every Drop, in order.
var Drops = [drops]string{"source_cid", "short", "length", "chain", "orphan_rst"}

// Ops names the packet operations by number; the last counts every other.
var Ops = [9]string{
	"invalid", "request", "response", "rst", "shutdown", "rw", "credit_update", "credit_request", "unknown",
}

// Stats counts what one VM's muxer does. The loop goroutine writes, any
// goroutine reads.
type Stats struct {
	Running     stats.Gauge // 1 while the driver is up: both rings run
	Connections [phases][directions]stats.Gauge
	Tails       stats.Gauge // host sockets that outlive their connection until their bytes are written
	Clients     stats.Gauge // host programs between connect and REQUEST
	Dials       stats.Gauge // REQUESTs that wait for room in a host program's backlog

	GuestWaits   stats.Gauge   // host programs that wait for the guest to accept
	GuestRetries stats.Counter // times the guest was asked again for a port on which it did not accept

	TxPackets  [len(Ops)]stats.Counter // from the guest, by operation
	RxPackets  [len(Ops)]stats.Counter // towards the guest, by operation
	TxBytes    stats.Counter           // payload from the guest
	RxBytes    stats.Counter           // payload towards the guest
	TxMessages stats.Counter           // messages from the guest that came to their end
	RxMessages stats.Counter           // messages towards the guest that did
	Discarded  stats.Counter           // payload bytes from the guest that no host program could take any more

	Answered   [directions][answers]stats.Histogram // from REQUEST to RESPONSE or RST, by who asked
	Resets     [resetReasons]stats.Counter
	Handshakes [handshakes]stats.Counter
	Drops      [drops]stats.Counter

	CreditStalls stats.Counter // host bytes began to wait for the guest's buffer space
	PacketStalls stats.Counter // host bytes began to wait for the guest to read packets
	HostStalls   stats.Counter // a host socket began to push back
	RxRingStalls stats.Counter // packets began to wait for a receive buffer
	ReplyStalls  stats.Counter // the tx ring began to wait for replies to leave
	BufferStalls stats.Counter // the tx ring began to wait at the cap on buffered bytes
	MemoryStalls stats.Counter // the host had no memory to write to a host socket, or to read from it
	AcceptStalls stats.Counter // the listener began to wait for a descriptor

	// How long those waits have lasted, by the loop's clock: of connections added up,
	// of rings as it is.
	CreditStalled stats.Stopwatch // host bytes waited for the guest's credit, buffer space or packets
	HostStalled   stats.Stopwatch // a host socket pushed back
	RxRingStalled stats.Stopwatch
	ReplyStalled  stats.Stopwatch
	BufferStalled stats.Stopwatch

	GuestCID        stats.Gauge   // the guest's address in packets
	PendingCID      stats.Gauge   // a configured address that is not valid yet; else 0
	TransportResets stats.Counter // events that told a guest to drop its connections

	Buffered       stats.Gauge // bytes of memory that hold payload for host sockets
	BufferedBegun  stats.Gauge // of them, those of messages whose end has not come
	RxQueueDepth   stats.Gauge
	KillQueueDepth stats.Gauge
	RxResyncs      stats.Counter
	KillResyncs    stats.Counter
}
