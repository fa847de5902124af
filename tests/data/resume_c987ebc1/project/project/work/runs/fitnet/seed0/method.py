_base_ = ['../../../../fitnet.py']
