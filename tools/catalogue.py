"""Write docs/methods/README.md, configs/*/metafile.yml and model-index.yml where they are stale."""

from mmdistill_dense.catalogue import write

if __name__ == '__main__':
    for file in write():
        print(f'written {file}')
