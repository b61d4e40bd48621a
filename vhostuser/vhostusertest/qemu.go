package vhostusertest

import "github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"

// qemu replays vhost-user-vsock-pci. QEMU configures the first two rings only;
// the event ring stays its own. Messages have no NEED_REPLY but where it is said.
type qemu struct {
	*Frontend
	*Guest
	known    vhostuser.ProtocolFeatures // bits it acknowledges when they are offered
	ackRings bool                       // waits for each VHOST_USER_SET_VRING_ENABLE
	resets   bool                       // sends VHOST_USER_RESET_DEVICE

	offered  uint64
	protocol vhostuser.ProtocolFeatures
	features uint64
	masked   []int // call descriptors while the guest notifiers are off
	added    bool  // memory regions were added
	bases    [qemuRings]uint32
}

const (
	qemuRings    = 2
	qemuRingSize = 128
	// lowMemory is where QEMU's first region ends: the VGA window follows.
	lowMemory = 0xa0000
)

// QEMU72 replays QEMU 7.2.
func QEMU72(f *Frontend, g *Guest) Peer {
	return &qemu{Frontend: f, Guest: g, known: 0x1bfff}
}

// QEMU10 replays QEMU 10.
func QEMU10(f *Frontend, g *Guest) Peer {
	return &qemu{Frontend: f, Guest: g, known: 0xfffff, ackRings: true, resets: true}
}

// QEMUWith replays QEMU 10 with a backend that offers only these protocol features.
func QEMUWith(f *Frontend, g *Guest, offered vhostuser.ProtocolFeatures) Peer {
	return &qemu{Frontend: f, Guest: g, known: offered, ackRings: true, resets: true}
}

func (q *qemu) Init() {
	q.Frontend.tb.Helper()
	q.Guest.split(lowMemory)
	q.GetFeatures()
	q.protocol = q.Frontend.protocol(q.known)
	if q.protocol&vhostuser.ProtocolMQ != 0 {
		q.GetQueueNum()
	}
	if q.protocol&vhostuser.ProtocolConfigureMemSlots != 0 {
		q.GetMaxMemSlots()
	}
	if q.protocol&vhostuser.ProtocolBackendReq != 0 {
		q.withAck(q.SetBackendReqFd)
	}
	q.SetOwner()
	q.offered = q.GetFeatures()
	for i := range uint32(qemuRings) {
		q.masked = append(q.masked, q.Guest.eventfd())
		q.SetVringCall(i, q.masked[i])
		q.SetVringErr(i, q.Guest.eventfd())
	}
	q.GetConfig(0, 8, 0)
	q.resetDevice() // the machine's first reset
}

func (q *qemu) Start() {
	q.Frontend.tb.Helper()
	q.resetDevice() // the driver's write of 0 to the status
	q.features = q.driver(q.offered)
	q.probe(qemuRings, qemuRingSize, q.features)
	for i, r := range q.Rings {
		q.bases[i] = r.Base()
	}
	q.start()
}

func (q *qemu) start() {
	q.Frontend.tb.Helper()
	q.SetVringCall(1, q.masked[1])
	q.SetVringCall(0, q.masked[0])
	q.SetFeatures(q.features | vhostuser.FeatureProtocolFeatures)
	q.withAck(q.memory)
	for i, r := range q.Rings {
		index := uint32(i)
		q.SetVringNum(index, uint32(r.Config().Size))
		q.SetVringBase(index, q.bases[i])
		q.SetVringAddr(q.addr(i, r.Config().Used))
		q.SetVringKick(index, r.KickFd())
	}
	q.enable(true)
	for i, r := range q.Rings {
		q.SetVringCall(uint32(i), r.CallFd())
	}
}

// memory passes the guest's memory: region by region and only once where there
// are slots, as a whole each time where there are none.
func (q *qemu) memory() {
	q.Frontend.tb.Helper()
	if q.protocol&vhostuser.ProtocolConfigureMemSlots == 0 {
		q.SetMemTable(q.regions, q.fds, 0)
		return
	}
	if !q.added {
		for i, r := range q.regions {
			q.AddMemReg(r, q.fds[i])
		}
	}
	q.added = true
}

func (q *qemu) enable(on bool) {
	q.Frontend.tb.Helper()
	for i := range uint32(qemuRings) {
		switch {
		case !q.ackRings:
			q.SetVringEnable(i, on)
		case q.protocol&vhostuser.ProtocolReplyAck != 0:
			q.withAck(func() { q.SetVringEnable(i, on) })
		default:
			q.SetVringEnable(i, on)
			q.GetFeatures()
		}
	}
}

func (q *qemu) Stop() {
	q.Frontend.tb.Helper()
	q.enable(false)
	for i := range q.bases {
		q.bases[i] = q.GetVringBase(uint32(i))
	}
	q.SetVringCall(1, q.masked[1])
	q.SetVringCall(0, q.masked[0])
}

func (q *qemu) Resume() {
	q.Frontend.tb.Helper()
	q.start()
}

func (q *qemu) Reset() {
	q.Frontend.tb.Helper()
	q.Stop()
	q.resetDevice()
}

func (q *qemu) resetDevice() {
	q.Frontend.tb.Helper()
	if q.resets && q.protocol&vhostuser.ProtocolResetDevice != 0 {
		q.ResetDevice()
	}
}

func (q *qemu) Shutdown() {
	q.Frontend.tb.Helper()
	q.Stop()
	q.Close()
}
