package vhostusertest

import "github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"

// openVMM replays OpenVMM. It sets up ring after ring, each completely, so that
// one runs before the next is known.
type openVMM struct {
	*Frontend
	*Guest
	offered uint64
	mapped  bool
	bases   []uint32
}

const (
	openVMMRings    = 3
	openVMMRingSize = 256
	openVMMKnown    = vhostuser.ProtocolMQ | vhostuser.ProtocolReplyAck | vhostuser.ProtocolConfig | vhostuser.ProtocolResetDevice
)

// OpenVMM replays OpenVMM.
func OpenVMM(f *Frontend, g *Guest) Peer { return &openVMM{Frontend: f, Guest: g} }

func (o *openVMM) Init() {
	o.Frontend.tb.Helper()
	o.offered = o.GetFeatures()
	o.protocol(openVMMKnown)
	o.SetOwner()
	o.GetQueueNum()
	o.NeedReply = true
}

func (o *openVMM) Start() {
	o.Frontend.tb.Helper()
	o.probe(openVMMRings, openVMMRingSize, o.driver(o.offered))
	o.bases = nil
	for _, r := range o.Rings {
		o.bases = append(o.bases, r.Base())
	}
	o.start()
	for offset := uint32(0); offset < 256; offset += 4 {
		o.GetConfig(offset, 4, 0)
	}
}

func (o *openVMM) start() {
	o.Frontend.tb.Helper()
	if !o.mapped {
		o.SetMemTable(o.regions, o.fds, 0)
	}
	o.mapped = true
	o.SetFeatures(o.driver(o.offered) | vhostuser.FeatureProtocolFeatures)
	for i, r := range o.Rings {
		index := uint32(i)
		o.SetVringNum(index, uint32(r.Config().Size))
		o.SetVringAddr(o.addr(i, 0))
		o.SetVringBase(index, o.bases[i])
		o.SetVringKick(index, r.KickFd())
		o.SetVringCall(index, r.CallFd())
		o.SetVringEnable(index, true)
	}
}

func (o *openVMM) Stop() {
	o.Frontend.tb.Helper()
	for i := range o.Rings {
		o.SetVringEnable(uint32(i), false)
		o.bases[i] = o.GetVringBase(uint32(i))
	}
}

func (o *openVMM) Resume() { o.Frontend.tb.Helper(); o.start() }

func (o *openVMM) Reset() {
	o.Frontend.tb.Helper()
	o.Stop()
	o.ResetDevice()
}

func (o *openVMM) Shutdown() {
	o.Frontend.tb.Helper()
	o.Stop()
	o.Close()
}
