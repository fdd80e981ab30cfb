/* The part of bcryptprimitives.dll that Rust's standard library needs, for Wine before 8.13, which lacks it. */
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return RtlGenRandom(data, (ULONG)size); }
