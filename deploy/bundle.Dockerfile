# The service with a bundle inside. The build's context is the bundle's directory.
ARG ISOGON=isogon:latest
FROM ${ISOGON}
ARG BUNDLE
ARG FINGERPRINT
LABEL isogon.bundle="${BUNDLE}" \
      isogon.fingerprint="${FINGERPRINT}"
COPY --chown=1034:1034 . /bundle
