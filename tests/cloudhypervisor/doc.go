// Package cloudhypervisor tests the daemon with a guest that needs no operating system,
// under QEMU and, where CLOUD_HYPERVISOR names the program, under cloud-hypervisor.
package cloudhypervisor
