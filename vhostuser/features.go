package vhostuser

import (
	"math/bits"
	"strconv"
	"strings"
)

// Virtio feature bits that concern the transport and the rings (virtio v1.4
// §6). The device chooses which of them it offers; only the first is ours.
const (
	FeatureProtocolFeatures uint64 = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	FeatureIndirectDesc     uint64 = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	FeatureEventIdx         uint64 = 1 << 29 // VIRTIO_F_EVENT_IDX
	FeatureVersion1         uint64 = 1 << 32 // VIRTIO_F_VERSION_1
)

// ProtocolFeatures is the word of VHOST_USER_GET_PROTOCOL_FEATURES.
type ProtocolFeatures uint64

const (
	ProtocolMQ                ProtocolFeatures = 1 << 0
	ProtocolReplyAck          ProtocolFeatures = 1 << 3
	ProtocolBackendReq        ProtocolFeatures = 1 << 5
	ProtocolConfig            ProtocolFeatures = 1 << 9
	ProtocolResetDevice       ProtocolFeatures = 1 << 13
	ProtocolConfigureMemSlots ProtocolFeatures = 1 << 15
)

// offeredProtocol is what works. QEMU acknowledges every bit it is offered,
// whether it means anything for the device or not, so nothing else may be here.
const offeredProtocol = ProtocolMQ | ProtocolReplyAck | ProtocolBackendReq |
	ProtocolConfig | ProtocolResetDevice | ProtocolConfigureMemSlots

var protocolNames = map[ProtocolFeatures]string{
	ProtocolMQ:                "MQ",
	ProtocolReplyAck:          "REPLY_ACK",
	ProtocolBackendReq:        "BACKEND_REQ",
	ProtocolConfig:            "CONFIG",
	ProtocolResetDevice:       "RESET_DEVICE",
	ProtocolConfigureMemSlots: "CONFIGURE_MEM_SLOTS",
}

// String joins the names of the bits that are set, lowest first.
func (p ProtocolFeatures) String() string {
	var names []string
	for rest := p; rest != 0; rest &= rest - 1 {
		bit := rest & -rest
		name, ok := protocolNames[bit]
		if !ok {
			name = "bit " + strconv.Itoa(bits.TrailingZeros64(uint64(bit)))
		}
		names = append(names, name)
	}
	return strings.Join(names, "|")
}
