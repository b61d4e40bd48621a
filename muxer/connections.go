package muxer

import (
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// Wait is what a connection waits for.
type Wait uint8

const (
	WaitNothing     Wait = iota
	WaitConnectLine      // of the host program
	WaitDriver           // to come up, or to go on
	WaitListener         // the guest's, under Config.WaitForGuest
	WaitGuestAnswer      // to a REQUEST or a SHUTDOWN
	WaitHostBacklog      // room in the host program's
	WaitGuestCredit      // the guest's program to read
	WaitRxBuffers        // the guest's driver to post receive buffers
	WaitHostSocket       // the host program to read
	Waits           = iota
)

// Connection is what there is to know about a host socket and the guest's
// connection that it serves.
type Connection struct {
	GuestPort uint32
	HostPort  uint32 // 0: none yet, for the guest was not asked
	Seqpacket bool   // it carries messages; else bytes
	Direction Direction
	Phase     Phase
	Lingering bool // the connection is over, and bytes for the host program are left
	Wait      Wait
	Age       time.Duration
	TxBytes   uint64 // from the guest
	RxBytes   uint64 // towards the guest
	Credit    int    // bytes that the guest would take now
	Buffered  int    // bytes from the guest that the host program has not taken
	Stalled   Stalled
}

// Connections appends what there is to know about every host socket to all, in no
// order, and returns that. It makes no system call.
func (m *Muxer) Connections(all []Connection) []Connection {
	for c := range m.sockets {
		all = append(all, c.describe())
	}
	return all
}

func (c *conn) describe() Connection {
	d := Connection{
		GuestPort: c.key.guest,
		Seqpacket: c.typ == csm.TypeSeqpacket,
		Phase:     c.phase,
		Lingering: c.stage == stageTail,
		Wait:      c.waitsFor(),
		Age:       c.m.loop.Now() - c.born,
		Buffered:  c.Buffered(),
		Stalled:   c.stalledFor(),
	}
	if c.hostInitiated {
		d.Direction = HostInitiated
	}
	if c.stage != stageLine && c.stage != stageWaiting {
		d.HostPort = c.key.host
	}
	d.TxBytes, d.RxBytes = c.Transferred()
	d.Credit, _ = c.RxSpace()
	return d
}

// waitsFor returns what keeps the connection from going on. Where both directions
// wait, it is what keeps bytes from the guest's program.
func (c *conn) waitsFor() Wait {
	m := c.m
	switch c.stage {
	case stageLine:
		return WaitConnectLine
	case stageWaiting:
		if c.port != nil {
			return WaitListener
		}
		return WaitDriver
	case stageDialing:
		return WaitHostBacklog
	case stageTail:
		return WaitHostSocket
	}
	due := c.Due(m.pressed()) || c.wantsRead()
	switch {
	case c.stalled:
		return WaitGuestCredit
	case due && !m.running() || c.State() == csm.Accepting:
		return WaitDriver
	case due && m.rxWait.runs:
		return WaitRxBuffers
	case c.State() == csm.Closing || c.asked && c.State() == csm.Connecting:
		return WaitGuestAnswer
	case c.waits():
		return WaitHostSocket
	}
	return WaitNothing
}
