// Package trace keeps what passes a VM's rings as a pcap file of the link type
// LINKTYPE_VSOCK, which Wireshark and tcpdump read: each packet as Linux's vsockmon
// device shows it, struct af_vsockmon_hdr, the virtio header, and the beginning of
// the payload.
//
// A Recorder never has its caller wait. It copies packets into a ring of fixed size,
// and a goroutine of its own writes them to the file. What finds the ring full is
// counted and missing in the file.
package trace
