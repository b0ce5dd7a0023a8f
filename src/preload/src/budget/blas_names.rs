//! The names of BLAS and LAPACK routines that are hooked.
//!
//! Each costs about 60 bytes of the library, so they are those that threads pay for and programs use: what numpy and
//! scipy call themselves, and the heavy half of BLAS. LAPACK's drivers are there because the OpenBLAS of numpy's and
//! scipy's wheels calls its own BLAS directly, where nobody can see it; Debian's does not.

use super::blas::stubs;

// numpy's wheels from 2.0 on: 64-bit integers, `scipy_` before and `64_` after the name.
stubs! {
    scipy_cblas_sgemm64_ scipy_cblas_dgemm64_ scipy_cblas_cgemm64_ scipy_cblas_zgemm64_
    scipy_cblas_sgemv64_ scipy_cblas_dgemv64_
    scipy_cblas_ssyrk64_ scipy_cblas_dsyrk64_
    scipy_sgesv_64_ scipy_dgesv_64_ scipy_zgesv_64_
    scipy_sgetrf_64_ scipy_dgetrf_64_
    scipy_spotrf_64_ scipy_dpotrf_64_
    scipy_sgesdd_64_ scipy_dgesdd_64_ scipy_zgesdd_64_
    scipy_sgelsd_64_ scipy_dgelsd_64_
    scipy_sgeev_64_ scipy_dgeev_64_ scipy_zgeev_64_
    scipy_ssyevd_64_ scipy_dsyevd_64_ scipy_zheevd_64_
    scipy_dgeqrf_64_ scipy_dorgqr_64_
}

// numpy's wheels up to 1.26: the same without `scipy_`.
stubs! {
    cblas_sgemm64_ cblas_dgemm64_ cblas_cgemm64_ cblas_zgemm64_
    cblas_sgemv64_ cblas_dgemv64_
    cblas_ssyrk64_ cblas_dsyrk64_
    sgesv_64_ dgesv_64_ zgesv_64_
    sgetrf_64_ dgetrf_64_
    spotrf_64_ dpotrf_64_
    sgesdd_64_ dgesdd_64_ zgesdd_64_
    sgelsd_64_ dgelsd_64_
    sgeev_64_ dgeev_64_ zgeev_64_
    ssyevd_64_ dsyevd_64_ zheevd_64_
    dgeqrf_64_ dorgqr_64_
}

// scipy's wheels from 1.13 on.
stubs! {
    scipy_sgemm_ scipy_dgemm_ scipy_cgemm_ scipy_zgemm_
    scipy_sgemv_ scipy_dgemv_
    scipy_strsm_ scipy_dtrsm_
    scipy_strmm_ scipy_dtrmm_
    scipy_ssyrk_ scipy_dsyrk_
    scipy_sgesv_ scipy_dgesv_ scipy_zgesv_
    scipy_sgetrf_ scipy_dgetrf_ scipy_zgetrf_
    scipy_sgetri_ scipy_dgetri_
    scipy_spotrf_ scipy_dpotrf_
    scipy_strtrs_ scipy_dtrtrs_
    scipy_sgesdd_ scipy_dgesdd_ scipy_zgesdd_
    scipy_sgelsd_ scipy_dgelsd_
    scipy_sgeev_ scipy_dgeev_ scipy_zgeev_
    scipy_ssyevd_ scipy_dsyevd_ scipy_zheevd_
    scipy_ssyevr_ scipy_dsyevr_ scipy_zheevr_
    scipy_sgeqrf_ scipy_dgeqrf_
    scipy_sorgqr_ scipy_dorgqr_
}

// Everybody else: distributions, conda, scipy's wheels up to 1.12, BLIS, Fortran.
stubs! {
    cblas_sgemm cblas_dgemm cblas_cgemm cblas_zgemm
    cblas_sgemv cblas_dgemv
    cblas_ssyrk cblas_dsyrk
    sgemm_ dgemm_ cgemm_ zgemm_
    sgemv_ dgemv_ zgemv_
    strsm_ dtrsm_ ztrsm_
    strmm_ dtrmm_
    ssyrk_ dsyrk_ zherk_
    dsymm_ dsyr2k_
    dsymv_ dger_
    sgesv_ dgesv_ zgesv_
    sgetrf_ dgetrf_ zgetrf_
    sgetri_ dgetri_
    spotrf_ dpotrf_
    strtrs_ dtrtrs_
    sgesdd_ dgesdd_ zgesdd_
    sgelsd_ dgelsd_
    sgeev_ dgeev_ zgeev_
    ssyevd_ dsyevd_ zheevd_
    ssyevr_ dsyevr_ zheevr_
    sgeqrf_ dgeqrf_
    sorgqr_ dorgqr_
}
