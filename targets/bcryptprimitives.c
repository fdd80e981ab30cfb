/* What Rust's standard library needs of bcryptprimitives.dll, for a Wine that has none (before 8.13). */
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return RtlGenRandom(data, (ULONG)size); }
