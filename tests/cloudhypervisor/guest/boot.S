/*
 * From where the VMM leaves a PVH guest (32-bit protected mode, no paging, %ebx at
 * struct hvm_start_info, which main gets) to C in long mode. There are no interrupts: the guest polls,
 * and a fault is a triple fault, which resets the machine.
 */

	/* XEN_ELFNOTE_PHYS32_ENTRY: the VMM enters here. */
	.section .note.pvh, "a", @note
	.long 4, 8, 18
	.asciz "Xen"
	.quad start

#define PRESENT  0x01
#define WRITABLE 0x02
#define HUGE     0x80 /* 2 MiB */

	.section .text.start, "ax"
	.code32
	.global start
start:
	cli
	cld
	/* A machine that was reset finds here what the last run left. */
	mov $bss_start, %edi
	mov $bss_end, %ecx
	sub %edi, %ecx
	shr $2, %ecx
	xor %eax, %eax
	rep stosl

	mov $pml4, %eax
	mov %eax, %cr3
	mov %cr4, %eax
	or $0x20, %eax /* PAE */
	mov %eax, %cr4
	mov $0xc0000080, %ecx /* EFER */
	rdmsr
	or $0x100, %eax /* LME */
	wrmsr
	mov %cr0, %eax
	or $0x80000001, %eax /* PG, PE */
	mov %eax, %cr0
	lgdt gdt_pointer
	ljmp $8, $long_mode

	.code64
long_mode:
	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $stack_end, %rsp
	xor %ebp, %ebp
	mov %ebx, %edi
	call main
1:	hlt
	jmp 1b

	.section .data
	.balign 16
gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* code, 64 bit */
	.quad 0x00cf93000000ffff /* data */
gdt_pointer:
	.word . - gdt - 1
	.long gdt

	/* Memory lies at its own address; what map_device maps begins at 512 GiB. */
	.balign 4096
pml4:
	.quad memory_pdpt + PRESENT + WRITABLE
	.quad device_pdpt + PRESENT + WRITABLE
	.fill 510, 8, 0
memory_pdpt:
	.quad memory_pd + PRESENT + WRITABLE
	.fill 511, 8, 0
memory_pd:
	.set address, 0
	.rept 512
	.quad address + PRESENT + WRITABLE + HUGE
	.set address, address + 0x200000
	.endr
device_pdpt:
	.quad device_pd + PRESENT + WRITABLE
	.fill 511, 8, 0

	.section .bss
	.balign 4096
	.global device_pd
device_pd:
	.skip 4096
stack:
	.skip 65536
stack_end:

	.section .note.GNU-stack, "", @progbits
