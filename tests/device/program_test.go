package device

// program is what one run does: what is there to begin with, in two bytes, and
// operations, each a byte with arguments behind it.
type program []byte

// Bits of what is there to begin with.
const (
	withPacked = 1 << iota
	withEventIdx
	withIndirect
	withSeqpacket
	withEvents    // an event ring
	withSmallRing // of four entries, so that they run out
	withAcks      // VHOST_USER_PROTOCOL_F_REPLY_ACK
	withChannel   // VHOST_USER_PROTOCOL_F_BACKEND_REQ
	withInBand    // VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS, with what it needs
	withSlots     // VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS
)

// Operations. Those from opPacket on break rules, and end the checks that depend on
// them.
const (
	opTurns     = iota // turns of the loop
	opRequest          // the guest connects
	opSend             // the guest sends payload
	opSay              // the guest says something else of a connection
	opBuffers          // the guest posts receive buffers
	opListen           // a host program begins to listen, or ends
	opConnect          // a host program connects, with or without its CONNECT line
	opWrite            // a host program writes
	opRead             // a host program reads
	opShut             // a host program shuts down or closes
	opTime             // time passes
	opStop             // the frontend stops or starts a ring
	opEnable           // the frontend disables or enables a ring
	opNotifier         // the frontend passes a ring's descriptors again, or takes one away
	opMemory           // the frontend passes the memory again
	opLog              // the frontend begins a log of dirty pages, or ends it
	opNewDriver        // the guest reboots: fresh rings
	opState            // the frontend saves the device's state, and may load it
	opCID              // the guest's CID changes
	opSession          // the frontend leaves, and comes back
	opPacket           // any header
	opWord             // any word of a ring
	opChain            // any chain
	opMessage          // any message
	opClient           // a host program sends any bytes
	opShrink           // memory goes away
	operations
)

// atOnce in an operation has the next one follow before the device has its turn.
const atOnce = 0x80

// next takes a byte, 0 behind the end.
func (p *program) next() byte {
	if len(*p) == 0 {
		return 0
	}
	b := (*p)[0]
	*p = (*p)[1:]
	return b
}

// below takes a number less than n, which is at most 256.
func (p *program) below(n int) int { return int(p.next()) % n }

// u16 takes a number of two bytes.
func (p *program) u16() int { return int(p.next()) | int(p.next())<<8 }

// u64 takes a number of eight bytes.
func (p *program) u64() (v uint64) {
	for i := range 8 {
		v |= uint64(p.next()) << (8 * i)
	}
	return v
}

// take takes n bytes, fewer at the end.
func (p *program) take(n int) []byte {
	n = min(n, len(*p))
	b := (*p)[:n]
	*p = (*p)[n:]
	return b
}
